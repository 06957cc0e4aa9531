"""What people see of a training while it runs: a line of the log, a file, and event files."""

import importlib.util
import logging
import time
from pathlib import Path

from rectify.gsnr.observer import GsnrObserver
from rectify.results.files import write_json
from rectify.training.progress import EpochRow

log = logging.getLogger(__name__)


class Reporter:
    """Reports each epoch's row when it is called with it."""

    def __init__(self, progress: Path, epochs: int, observer: GsnrObserver, events: Path | None):
        """Start the clock.

        Args:
            progress: File that says how far the training is.
            epochs: Of the training.
            observer: Has measured the gradients.
            events: Folder for TensorBoard's event files; None for none.

        Raises:
            ValueError: If there is such a folder, and no package tensorboard.
        """
        self._progress, self._epochs, self._observer = progress, epochs, observer
        self._started, self._reported = time.monotonic(), 0
        self._events, self._writer = events, None
        if events is not None and importlib.util.find_spec("tensorboard") is None:
            raise ValueError(
                "train: --tensorboard must have the package tensorboard, got none. "
                "Install it, or set tensorboard to false in the configuration."
            )

    def __call__(self, row: EpochRow) -> None:
        self._reported += 1
        test = ", ".join(f"{name} {value:.4f}" for name, value in row.test.items())
        log.info(
            "epoch %d: loss %.4f, lambda %.3f, %s, %.1f s, %.0f items/s",
            row.epoch, row.train_loss, row.weight, test, row.train_seconds, row.items_per_second,
        )  # fmt: skip
        self._write_events(row)
        pace = (time.monotonic() - self._started) / self._reported
        done = {"epochs_done": row.epoch + 1, "epochs": self._epochs, "seconds_per_epoch": pace}
        write_json(self._progress, done)

    def _write_events(self, row: EpochRow) -> None:
        if self._events is None:
            return
        from torch.utils.tensorboard import SummaryWriter

        if self._writer is None:  # TensorBoard drops what earlier attempts wrote from here on
            self._writer = SummaryWriter(self._events, purge_step=row.epoch)
        for name, value in row.metrics().items():
            self._writer.add_scalar(name, value, row.epoch)
        for measured in self._observer.rows(row.epoch):
            name = f"gsnr/{measured.estimator}/block-{measured.block}"
            self._writer.add_scalar(name, measured.gsnr, row.epoch)
        self._writer.flush()
