"""Small video files, written with PyAV."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

CODECS = {".webm": "libvpx-vp9", ".mp4": "libx264"}


def film(path: Path, frames: int, size: tuple[int, int] = (64, 48), level: int = 0) -> Path:
    """Write a clip: frame t is grey at ``level + 5 t`` (modulo 230), its left half lighter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(f"{path}", "w") as container:
        stream = container.add_stream(CODECS[path.suffix], rate=12)
        stream.width, stream.height = size
        stream.pix_fmt, stream.thread_count = "yuv420p", 1
        stream.options = {"crf": "10", "cpu-used": "8"} if path.suffix == ".webm" else {"crf": "5"}
        for time in range(frames):
            pixels = np.full((size[1], size[0], 3), (level + 5 * time) % 230, np.uint8)
            pixels[:, : size[0] // 2] += 20
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


SOUNDS = {".webm": ("libopus", 960), ".mp4": ("aac", 1024)}
"""By suffix: codec, and samples of a frame."""


def timed(path: Path, times: list[float], held: float = 0.0, sound: float = 0.0) -> Path:
    """Write a clip with pictures at some times.

    Args:
        path: Of the file.
        times: In seconds.
        held: Seconds for which the last picture stays.
        sound: Seconds of silence; none for 0.
    """
    tick = Fraction(1, 1000)
    with av.open(f"{path}", "w") as container:
        stream = container.add_stream(CODECS[path.suffix], rate=10)
        stream.width, stream.height = 64, 48
        stream.pix_fmt, stream.thread_count = "yuv420p", 1
        stream.time_base = stream.codec_context.time_base = tick
        voice = container.add_stream(SOUNDS[path.suffix][0], rate=48_000) if sound else None
        for time in times:
            pixels = np.full((48, 64, 3), int(20 * time) % 200, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = round(time / tick), tick
            container.mux(stream.encode(frame))
        for packet in stream.encode():
            if held:
                packet.duration = round(held / packet.time_base)
            container.mux(packet)
        if voice is not None:
            samples = SOUNDS[path.suffix][1]
            for start in range(0, round(48_000 * sound), samples):
                silence = np.zeros((1, samples), np.float32)
                frame = av.AudioFrame.from_ndarray(silence, "fltp", "mono")
                frame.sample_rate, frame.pts, frame.time_base = 48_000, start, Fraction(1, 48_000)
                container.mux(voice.encode(frame))
            container.mux(voice.encode())
    return path
