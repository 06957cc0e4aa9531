import numpy as np
import pytest
import torch
from PIL import Image

from rectify.data.batches import Reader
from rectify.data.manifests import manifest
from rectify.data.sets import FileSet
from rectify.tasks.video_classification.augment import EvaluationClip, TrainingClip
from rectify.tasks.video_classification.frames import (
    Clips,
    decode,
    evaluation_frames,
    training_frames,
    undecodable,
)
from tests.helpers.films import film, timed

LENGTHS = [1, 2, 8, 15, 16, 17, 31, 32, 33, 40, 100, 117]


def everything(length):
    return list(range(length))


def level(frame):
    """Return the grey of a frame's right half."""
    return float(np.asarray(frame)[:, -10:].mean())


@pytest.mark.parametrize("length", LENGTHS)
def test_training_takes_one_frame_of_each_equal_segment(length):
    lowest = training_frames(length, torch.zeros(16))
    highest = training_frames(length, torch.full((16,), 1 - 2**-24))
    segment = length // 16
    if segment:
        assert lowest == [segment * index for index in range(16)]
        assert highest == [segment * index + segment - 1 for index in range(16)]
    else:  # all that there are, in their order
        assert lowest == highest == sorted(lowest)
        assert set(lowest) == set(range(length))


def test_every_frame_of_a_segment_is_as_likely():
    draws = torch.rand(4000, 16, generator=torch.Generator().manual_seed(0))
    taken = torch.tensor([training_frames(48, one) for one in draws])
    shares = torch.stack([(taken % 3 == place).float().mean(0) for place in range(3)])
    assert (shares - 1 / 3).abs().max() < 0.04


@pytest.mark.parametrize("length", LENGTHS)
def test_two_views_are_every_other_of_the_sorted_middles_and_starts(length):
    """The oracle is VideoMAE's rule in words: 16 starts and 16 middles, sorted, split by two."""
    tick = length / 16
    places = sorted(
        [int(tick * x) for x in range(16)] + [int(tick * x + tick / 2) for x in range(16)]
    )
    assert evaluation_frames(length, 16, 2) == places[0::2] + places[1::2]
    assert evaluation_frames(length, 16, 1) == [int(tick * x + tick / 2) for x in range(16)]


def test_other_numbers_of_views_are_refused():
    with pytest.raises(ValueError, match="must have 1 or 2 views in time, got 5"):
        evaluation_frames(16, 16, 5)


@pytest.mark.parametrize("name", ["a clip.webm", "b.mp4"])
def test_the_chosen_frames_of_a_file_come_in_their_order(tmp_path, name):
    path = film(tmp_path / name, frames=20)
    frames = decode(path, lambda length: [0, 7, 7, length - 1])
    assert [frame.size for frame in frames] == [(64, 48)] * 4
    assert {frame.mode for frame in frames} == {"RGB"}
    assert [level(frame) for frame in frames] == pytest.approx([0, 35, 35, 95], abs=2)
    assert len(decode(path, everything)) == 20


def test_a_folder_of_frames_is_a_clip_too(tmp_path):
    for time in range(12):
        Image.new("L", (8, 6), 10 * time).save(tmp_path / f"{time + 1:05}.png")
    (tmp_path / "notes.txt").write_text("no frame")
    frames = decode(tmp_path, lambda length: [0, length - 1])
    assert [level(frame) for frame in frames] == [0, 110]
    assert frames[0].mode == "RGB"


@pytest.mark.parametrize(
    "name", ["{}", "frame_{}", "img-{:02}", "a1b_{}", "0{}", "{}_of_120"], ids=repr
)
def test_frames_come_by_the_numbers_in_their_names(tmp_path, name):
    times = [*range(1, 13), 99, 100, 101]
    for time in times:
        Image.new("L", (8, 6), 2 * time).save(tmp_path / f"{name.format(time)}.png")
    frames = decode(tmp_path, everything)
    assert [level(frame) for frame in frames] == [
        2 * time for time in [*range(1, 13), 99, 100, 101]
    ]


def test_frames_of_several_shots_come_shot_by_shot(tmp_path):
    names = ["shot2_1", "shot2_10", "shot10_2", "shot10_11"]
    for time, name in enumerate(names):
        Image.new("L", (8, 6), 10 * time).save(tmp_path / f"{name}.jpg")
    assert [round(level(frame) / 10) for frame in decode(tmp_path, everything)] == [0, 1, 2, 3]


def test_hidden_files_are_no_frames(tmp_path):
    for time in range(3):
        Image.new("L", (8, 6), 10 * time).save(tmp_path / f"{time}.png")
        (tmp_path / f"._{time}.png").write_bytes(b"\0\5\x16\7")  # what macOS writes beside it
    (tmp_path / "cache.png").mkdir()
    assert [level(frame) for frame in decode(tmp_path, everything)] == [0, 10, 20]
    assert undecodable(tmp_path.parent, [tmp_path.name], threads=1) == []


MATRICES = {
    0: (1, 0, 0, 1),
    90: (0, 1, -1, 0),
    180: (-1, 0, 0, -1),
    270: (0, -1, 1, 0),
}
"""Of ISO 14496-12: a point (x, y) is shown at (a x + c y, b x + d y), y pointing down."""


def shown(pixels, matrix):
    """Move each pixel to where the matrix says, one by one, with the corner at the origin."""
    a, b, c, d = matrix
    places = {
        (a * x + c * y, b * x + d * y): pixels[y, x]
        for y in range(pixels.shape[0])
        for x in range(pixels.shape[1])
    }
    left, top = (min(place[axis] for place in places) for axis in (0, 1))
    width, height = (max(place[axis] for place in places) + 1 for axis in (0, 1))
    result = np.zeros((height - top, width - left, 3), np.uint8)
    for (x, y), colour in places.items():
        result[y - top, x - left] = colour
    return result


@pytest.mark.parametrize("degrees", MATRICES)
def test_a_rotated_clip_is_upright(tmp_path, degrees):
    path = film(tmp_path / "phone.mp4", frames=5)
    stored = np.asarray(decode(path, lambda length: [3])[0])
    content = bytearray(path.read_bytes())
    a, b, c, d = MATRICES[degrees]
    fixed = [a, b, 0, c, d, 0, 0, 0, 1]
    start = content.index(b"tkhd") + 4 + 40  # a version 0 header has its matrix there
    for place, (value, one) in enumerate(zip(fixed, 3 * [1 << 16, 1 << 16, 1 << 30], strict=True)):
        where = start + 4 * place
        content[where : where + 4] = (value * one).to_bytes(4, "big", signed=True)
    path.write_bytes(content)
    frame = decode(path, lambda length: [3])[0]
    assert frame.size == ((48, 64) if degrees in (90, 270) else (64, 48))
    assert np.array_equal(np.asarray(frame), shown(stored, MATRICES[degrees]))


UNUSUAL = {
    "sound after the pictures": {"times": [time / 10 for time in range(20)], "sound": 5.0},
    "a held last picture": {"times": [0, 0.1, 0.2, 0.3], "held": 2.7},
    "a picture a second": {"times": [0, 1], "held": 1.0},
    "a single picture": {"times": [0], "held": 1.0},
}


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
@pytest.mark.parametrize("kind", UNUSUAL)
def test_a_whole_clip_is_whole_whatever_its_clock_says_and_a_cut_one_is_found(
    tmp_path, kind, suffix
):
    path = timed(tmp_path / f"whole{suffix}", **UNUSUAL[kind])
    assert len(decode(path, everything)) == len(UNUSUAL[kind]["times"])
    whole, names = path.read_bytes(), [path.name]
    for share in (0.2, 0.5, 0.8, 0.97):
        names.append(f"{share}{suffix}")
        (tmp_path / names[-1]).write_bytes(whole[: int(share * len(whole))])
    assert undecodable(tmp_path, names, threads=2) == names[1:]


def damaged(folder, how):
    path = folder / "a.webm"
    if how == "folder":
        path.mkdir()
    elif how != "missing":
        whole = film(path, frames=80).read_bytes()
        cut = {"empty": b"", "text": b"no clip", "head": whole[:200]}
        path.write_bytes(cut.get(how, whole[: len(whole) // 2]))
    return path


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("empty", "Invalid data found"),
        ("text", "Invalid data found"),
        ("head", "(Input/output error|Invalid data)"),
        ("end", r"\d+ of \d+ bytes"),
        ("folder", "no image"),
        ("missing", "No such file"),
    ],
)
def test_a_clip_that_cannot_be_decoded_is_one_line_and_is_found(tmp_path, how, reason):
    path = damaged(tmp_path, how)
    with pytest.raises(
        ValueError, match=f"must be a clip that can be decoded, got {reason}"
    ) as got:
        decode(path, everything)
    assert "\n" not in str(got.value)
    film(tmp_path / "good.mp4", frames=3)
    assert undecodable(tmp_path, ["good.mp4", path.name], threads=2) == [path.name]


def test_a_file_without_pictures_is_no_clip(tmp_path):
    import av

    with av.open(f"{tmp_path}/sound.mp4", "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(ValueError, match="got no frame"):
        decode(tmp_path / "sound.mp4", everything)


@pytest.fixture
def files(tmp_path):
    for item in range(4):
        film(tmp_path / f"{item}.mp4", frames=10 + 10 * item, level=10 * item)
    rows = [("train", item, f"class {item}", f"{item}.mp4") for item in range(4)]
    return FileSet(tmp_path, manifest(rows), "train")


def levels(clip):
    return [round(level(frame) / 5) for frame in clip]


def test_a_test_set_gives_the_same_frames_whatever_the_generator(files):
    for item, length in ((2, 30), (0, 10)):
        torch.manual_seed(item)
        expected = [2 * item + frame for frame in evaluation_frames(length, 4, 2)]
        assert levels(Clips(files, 4, views=2)[item]) == expected


def test_training_frames_repeat_with_the_seed_and_change_with_it(files):
    def taken(item, seed):
        torch.manual_seed(seed)
        return levels(Clips(files, 4, views=None)[item])

    for item in range(4):
        torch.manual_seed(item)
        frames = training_frames(10 + 10 * item, torch.rand(4))
        assert taken(item, seed=item) == [2 * item + frame for frame in frames]
    assert taken(3, 0) == taken(3, 0) != taken(3, 1)


def test_a_split_says_how_many_frames_come_with_a_clip(files):
    for views, expected in ((None, 4), (1, 4), (2, 8)):
        clips = Clips(files, 4, views)
        assert clips.frames == len(clips[3]) == expected


TRAINING = TrainingClip(
    image_size=16, crop_scale=0.08, flip_prob=0.5, auto_augment="rand-m7-n4-mstd0.5-inc1"
)
TEST = EvaluationClip(16, 4, crops=3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # few cores here
@pytest.mark.parametrize(
    ("views", "prepare", "fewer"),
    [
        (None, TEST, 0),
        (2, TEST, 0),
        (None, TRAINING, 1),  # here the checks of types draw from Python's generator as well
    ],
)
def test_batches_are_the_same_whatever_the_workers(files, views, prepare, fewer):
    items, seeds = torch.tensor([3, 1, 1, 0, 2]), torch.tensor([7, 8, 9, 10, 11])
    many, few = (
        list(
            Reader(Clips(files, 4, views), prepare, workers, torch.device("cpu")).read(
                items, 4, seeds
            )
        )
        for workers in (3, fewer)
    )
    assert [len(batch) for batch in many] == [4, 1]
    assert all(torch.equal(*pair) for pair in zip(many, few, strict=True))
    same = torch.equal(many[0][1], many[0][2])  # one clip with two seeds
    assert same == (views is not None)


def test_long_clips_are_read_in_small_chunks(files, monkeypatch):
    monkeypatch.setattr("rectify.data.batches.CHUNK", 8)
    taken = []

    class Noting(Clips):
        def __getitem__(self, item):
            taken.append(item)
            return super().__getitem__(item)

    reader = Reader(Noting(files, 4, 1), EvaluationClip(16, 4, 1), 0, torch.device("cpu"))
    batch = next(reader.read(torch.tensor([0, 1, 2, 3, 0]), 3))
    assert batch.shape == (3, 1, 4, 3, 16, 16)
    assert taken == [0, 1, 2]  # in chunks of two clips, then one
