"""What people see of a training while it runs: a line of the log, a file, and event files."""

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
        """
        self._progress, self._epochs, self._observer = progress, epochs, observer
        self._started, self._reported, self._writer = time.monotonic(), 0, None
        if events is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(events)

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
        if self._writer is None:
            return
        for name, value in row.metrics().items():
            self._writer.add_scalar(name, value, row.epoch)
        for measured in self._observer.rows(row.epoch):
            name = f"gsnr/{measured.estimator}/block-{measured.block}"
            self._writer.add_scalar(name, measured.gsnr, row.epoch)
        self._writer.flush()
