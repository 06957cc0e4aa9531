"""Rows of a tensor that come part by part, kept in a file and not in memory."""

import tempfile
from types import TracebackType

import numpy as np
import torch
from torch import Tensor


class Spool:
    """Rows in a file without a name, in the folder of temporary files (``TMPDIR``).

    The file is gone with the last tensor of its rows, or with the process.

    >>> with Spool() as spool:
    ...     for row in range(3):
    ...         spool.add(np.full((2, 1), row))
    ...     rows = spool.tensor()
    >>> rows.flatten().tolist()
    [0, 0, 1, 1, 2, 2]
    """

    def __enter__(self) -> "Spool":
        self._file = tempfile.TemporaryFile()
        self._rows, self._like = 0, np.empty(0)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def add(self, rows: np.ndarray) -> None:
        """Put rows behind those that are there; all parts have one type and one shape of a row."""
        self._file.write(rows.tobytes())
        self._rows, self._like = self._rows + len(rows), rows[:0]

    def tensor(self) -> Tensor:
        """Return all rows, mapped into memory: only what is read takes some."""
        if not self._rows:
            return torch.from_numpy(self._like)
        self._file.flush()
        shape = (self._rows, *self._like.shape[1:])
        return torch.from_numpy(np.memmap(self._file, self._like.dtype, "c", shape=shape))
