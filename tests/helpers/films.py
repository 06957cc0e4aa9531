"""Small video files, written with PyAV."""

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
