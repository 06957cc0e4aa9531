"""Clips in their files: which frames a model sees, and how they are decoded.

A clip of ``length`` frames is cut into as many equal segments as the model takes frames.
Training draws one frame of each segment (TSN, Wang et al., 2016). A test takes fixed frames:
one view the middle of each segment, two views its start and its middle, as VideoMAE does for
Something-Something. A clip is a video file, or a folder with one image file per frame.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from rectify.data.images import read_image
from rectify.data.sets import FileSet
from rectify.tasks.video_classification.augment import Clip
from rectify.tasks.video_classification.containers import stored_length

Pick = Callable[[int], list[int]]
"""From the length of a clip to the frames to take, counted from 0."""

FRAMES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
TURNS = {
    1: Image.Transpose.ROTATE_90,
    2: Image.Transpose.ROTATE_180,
    3: Image.Transpose.ROTATE_270,
}
"""Counterclockwise, by quarters."""
PLACES = {1: (1,), 2: (0, 1)}
"""By number of views: where each takes its frames, in half segments from a segment's start."""


class Clips:
    """The clips of one split, decoded one by one when they are asked for."""

    def __init__(self, files: FileSet, model_frames: int, views: int | None):
        """Read nothing yet.

        Args:
            files: The split; each source is a video file or a folder of frames.
            model_frames: Frames that a model takes.
            views: Views of a test in time; None draws the frames anew each time, for training.
        """
        self.files, self.model_frames, self.views = files, model_frames, views
        self.frames = model_frames * (views or 1)

    def __getitem__(self, item: int) -> Clip:
        """Return the frames of a clip as RGB images, those of the first view first.

        Draws come from torch's global generator.
        """
        return decode(self.files.folder / self.files.sources[item], self._pick)

    def _pick(self, length: int) -> list[int]:
        if self.views is None:
            return training_frames(length, torch.rand(self.model_frames))
        return evaluation_frames(length, self.model_frames, self.views)


def training_frames(length: int, draws: Float[Tensor, " frames"]) -> list[int]:
    """Return one frame of each of ``len(draws)`` equal segments.

    Frames left over at the end are ignored.

    A clip with fewer frames than segments gives each of them in turn, some more than once.

    Args:
        length: Frames of the clip.
        draws: Place in each segment, in 0 .. 1 without 1.
    """
    frames = len(draws)
    segment = length // frames
    if segment == 0:
        return [index * length // frames for index in range(frames)]
    return [index * segment + int(draw * segment) for index, draw in enumerate(draws.tolist())]


def evaluation_frames(length: int, frames: int, views: int) -> list[int]:
    """Return the frames of each view, one view after the other.

    Args:
        length: Frames of the clip.
        frames: Frames of a view.
        views: 1 (middles of the segments) or 2 (starts, then middles).

    Raises:
        ValueError: If ``views`` is neither.
    """
    if views not in PLACES:
        raise ValueError(
            f"clips: a test must have 1 or 2 views in time, got {views}. Change the set's views."
        )
    return [
        (2 * index + half) * length // (2 * frames)
        for half in PLACES[views]
        for index in range(frames)
    ]


def decode(path: Path, pick: Pick) -> Clip:
    """Return chosen frames of a clip, as RGB.

    Args:
        path: A video file, or a folder of images whose names are in the order of time, their
            numbers read as numbers; hidden files are no frames.
        pick: Chooses among as many frames as the clip has.

    Raises:
        ValueError: If the clip is missing, damaged, or has no frames.
    """
    return _from_folder(path, pick) if path.is_dir() else _from_video(path, pick)


def undecodable(folder: Path, sources: Sequence[str], threads: int) -> list[str]:
    """Return the clips that cannot be decoded from their first frame to their last."""
    with ThreadPoolExecutor(threads) as pool:
        intact = list(pool.map(lambda name: _is_intact(folder / name), sources))
    return [name for name, good in zip(sources, intact, strict=True) if not good]


def _from_folder(path: Path, pick: Pick) -> Clip:
    files = [
        file
        for file in path.iterdir()
        if file.suffix.lower() in FRAMES and file.name[0] != "." and file.is_file()
    ]
    if not files:
        raise ValueError(_broken(path, "no image"))
    files.sort(key=_time)
    return [read_image(files[index]) for index in pick(len(files))]


def _time(frame: Path) -> tuple[list[str | int], str]:
    """Return the key that orders frames by the numbers in their names, read as numbers."""
    parts = re.split("([0-9]+)", frame.stem)  # text and numbers in turn
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], frame.name


def _from_video(path: Path, pick: Pick) -> Clip:
    frames = list(_video_frames(path))  # in the file's own, small format
    if not frames:
        raise ValueError(_broken(path, "no frame"))
    return [_upright(frames[index]) for index in pick(len(frames))]


def _upright(frame: av.VideoFrame) -> Image.Image:
    """Return a frame as it is shown: phones store clips as the sensor lies, and how to turn it."""
    turns = round(frame.rotation / 90) % 4
    return frame.to_image().transpose(TURNS[turns]) if turns else frame.to_image()


def _video_frames(path: Path) -> Iterator[av.VideoFrame]:
    try:
        with av.open(f"{path}") as container:
            if container.streams.video:
                stream = container.streams.video[0]
                stream.thread_count = 1  # clips are decoded side by side instead
                yield from container.decode(stream)
    except av.FFmpegError as error:
        raise ValueError(_broken(path, error.strerror)) from None
    there, promised = path.stat().st_size, stored_length(path)
    if there < promised:  # a decoder does not complain of a file's missing end
        raise ValueError(_broken(path, f"{there} of {promised} bytes"))


def _is_intact(path: Path) -> bool:
    """Decode all of a clip, and keep nothing."""
    try:
        if path.is_dir():
            _from_folder(path, lambda length: list(range(length)))
            return True
        return sum(1 for _ in _video_frames(path)) > 0
    except ValueError:
        return False


def _broken(path: Path, reason: str) -> str:
    return (
        f"{path}: must be a clip that can be decoded, got {reason}. "
        "Get the file again, and prepare the data set again."
    )
