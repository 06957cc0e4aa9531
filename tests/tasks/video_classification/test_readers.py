"""Something-Something-v2 in generated trees with the real names."""

import json

import pytest

from rectify.tasks.video_classification.readers import ssv2

CLASSES = [
    "Approaching something with your camera",
    "Putting something, something and something on the table",
    "Moving something up",
]
TEMPLATES = [
    "Approaching [something] with your camera",
    "Putting [something], [something] and [something] on the table",
    "Moving [something] up",
]


def put(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def official(folder, place="labels", suffix=".webm"):
    """Write the label files as they are distributed, numbers being strings, and empty clips."""
    numbers = {name: str(number) for number, name in enumerate(CLASSES)}
    put(folder / place / "labels.json", json.dumps(dict(reversed(numbers.items()))))
    for name, first, count in (("train", 100, 5), ("validation", 200, 3)):
        entries = [
            {
                "id": f"{first + item}",
                "label": "moving a cup up",
                "template": TEMPLATES[item % 3],
                "placeholders": ["a cup"],
            }
            for item in range(count)
        ]
        put(folder / place / f"{name}.json", json.dumps(entries))
        for entry in entries:
            put(folder / "videos" / f"{entry['id']}{suffix}")
    put(folder / place / "test.json", json.dumps([{"id": "300"}]))
    return folder


def lists(folder, train=("videos/a b.mp4 0", "videos/c.mp4  1"), val=("videos/d.mp4 1",)):
    for name, lines in (("train", train), ("val", val)):
        put(folder / f"{name}.csv", "\n".join(lines) + "\n")
        for line in lines:
            put(folder / line.rpartition(" ")[0].strip())
    return folder


@pytest.mark.parametrize("place", ["labels", "."])
def test_the_official_label_files_are_read(tmp_path, place):
    rows = ssv2.read(official(tmp_path, place))
    assert [row.split for row in rows] == ["train"] * 5 + ["test"] * 3
    assert [row.label for row in rows] == [0, 1, 2, 0, 1, 0, 1, 2]
    assert [row.name for row in rows[:3]] == CLASSES
    assert [row.source for row in rows[:2]] == ["videos/100.webm", "videos/101.webm"]


def test_converted_clips_and_folders_of_frames_win_over_the_original(tmp_path):
    official(tmp_path)
    put(tmp_path / "videos" / "100.mp4")
    put(tmp_path / "videos" / "101" / "00001.jpg")
    put(tmp_path / "videos" / "README.txt")
    sources = [row.source for row in ssv2.read(tmp_path)]
    assert sources[:3] == ["videos/100.mp4", "videos/101", "videos/102.webm"]


def test_lists_in_videomaes_format_are_read_with_spaces_in_names(tmp_path):
    assert ssv2.read(lists(tmp_path)) == [
        ("train", 0, "0", "videos/a b.mp4"),
        ("train", 1, "1", "videos/c.mp4"),
        ("test", 1, "1", "videos/d.mp4"),
    ]


def test_lists_win_and_take_the_names_of_the_label_file(tmp_path):
    rows = ssv2.read(lists(official(tmp_path)))
    assert [row.name for row in rows] == [CLASSES[0], CLASSES[1], CLASSES[1]]


def test_a_full_path_within_the_folder_is_taken_and_one_outside_refused(tmp_path):
    folder = tmp_path / "set"
    lists(folder, train=(f"{folder}/videos/a.mp4 0", "videos/../videos/b.mp4 1"))
    sources = [row.source for row in ssv2.read(folder)]
    assert sources == ["videos/a.mp4", "videos/b.mp4", "videos/d.mp4"]
    for outside in (f"{tmp_path}/a.mp4", "../a.mp4", "videos/../../a.mp4"):
        lists(folder, train=(f"{outside} 0", "videos/b.mp4 1"))
        with pytest.raises(ValueError, match="each clip must lie within the folder, got "):
            ssv2.read(folder)


def without(folder, name):
    (folder / name).unlink()


def changed(folder, name, change):
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


DAMAGE = {
    r"got no train\.json\. Get Something": lambda f: without(f, "labels/train.json"),
    r"got no labels\.json\. Get Something": lambda f: without(f, "labels/labels.json"),
    r"each listed clip must be there, got 1 of 8 missing: videos/101\.webm\.": lambda f: without(
        f, "videos/101.webm"
    ),
    "among the 3 labels, got 'Eating .something.' for clip 100": lambda f: changed(
        f, "labels/train.json", lambda e: e[0].update(template="Eating [something]")
    ),
    "must be a list of clips with id and template": lambda f: changed(
        f, "labels/train.json", lambda e: e[0].pop("id")
    ),
    "must number the classes from 0 without a gap": lambda f: changed(
        f, "labels/labels.json", lambda e: e.pop(CLASSES[1])
    ),
    r"must be listed once, got videos/100\.webm twice": lambda f: changed(
        f, "labels/validation.json", lambda e: e[0].update(id="100")
    ),
    "within the folder, got 'videos/../../100.webm'": lambda f: changed(
        f, "labels/train.json", lambda e: e[0].update(id="../../100")
    ),
    "must occur in training, got 'Moving something up' only there": lambda f: changed(
        f, "labels/train.json", lambda e: e.pop(2)
    ),
    "train.json: must be a list of clips with id and template": lambda f: changed(
        f, "labels/train.json", lambda e: e[0].update(id="1\n2")
    ),
    "labels.json: must number the classes": lambda f: changed(
        f, "labels/labels.json", lambda e: e.update(more="1" * 5_000)
    ),
    r"got 1 of 8 missing: videos/x{300}\.": lambda f: changed(
        f, "labels/train.json", lambda e: e[0].update(id="x" * 300)
    ),
    r"validation\.json: must be JSON": lambda f: put(f / "labels/validation.json", "[{"),
}


@pytest.mark.parametrize("message", DAMAGE)
def test_damage_of_the_official_files_is_one_line(tmp_path, message):
    official(tmp_path)
    DAMAGE[message](tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        ssv2.read(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("line", ["videos/a.mp4", "0", "videos/a.mp4 x", "videos/a.mp4 3"])
def test_a_wrong_line_of_a_list_is_named(tmp_path, line):
    put(tmp_path / "labels.json", json.dumps({name: n for n, name in enumerate(CLASSES)}))
    lists(tmp_path, train=("videos/c.mp4 1",))
    put(tmp_path / "train.csv", f"videos/c.mp4 1\n{line}\n")
    with pytest.raises(
        ValueError, match=f"must be a path and a known label, got '{line}' in line 2"
    ):
        ssv2.read(tmp_path)


@pytest.mark.parametrize("label", [10**20, "9" * 5_000])
def test_a_number_that_no_class_has_is_no_label(tmp_path, label):
    lists(tmp_path, train=(f"videos/c.mp4 {label}",))
    with pytest.raises(ValueError, match=r"train\.csv: each line must be a path and a known label"):
        ssv2.read(tmp_path)


def test_a_list_that_is_not_utf_8_is_named(tmp_path):
    lists(tmp_path)
    (tmp_path / "val.csv").write_bytes(b"videos/\xe9.mp4 0\n")
    with pytest.raises(ValueError, match=r"^\S+val\.csv: must be UTF-8, got .*Correct the list\.$"):
        ssv2.read(tmp_path)


def test_a_list_alone_is_not_enough(tmp_path):
    put(tmp_path / "train.csv", "a.mp4 0\n")
    with pytest.raises(ValueError, match=r"got no val\.csv"):
        ssv2.read(tmp_path)
