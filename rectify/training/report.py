"""What people see of a training while it runs: a line of the log, a file, and trackers' curves."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from rectify.gsnr.observer import GsnrObserver
from rectify.results.files import write_json
from rectify.training.progress import EpochRow
from rectify.training.trackers import Tracker

log = logging.getLogger(__name__)


class Reporter:
    """Reports each epoch's row when it is called with it."""

    def __init__(
        self, progress: Path, epochs: int, observer: GsnrObserver, trackers: Sequence[Tracker]
    ):
        """Start the clock.

        Args:
            progress: File that says how far the training is.
            epochs: Of the training.
            observer: Has measured the gradients.
            trackers: Get the numbers of each epoch.
        """
        self._progress, self._epochs, self._observer = progress, epochs, observer
        self._started, self._reported = time.monotonic(), 0
        self._trackers = trackers

    def __call__(self, row: EpochRow) -> None:
        self._reported += 1
        test = ", ".join(f"{name} {value:.4f}" for name, value in row.test.items())
        log.info(
            "epoch %d: loss %.4f, lambda %.3f, %s, %.1f s, %.0f items/s",
            row.epoch, row.train_loss, row.weight, test, row.train_seconds, row.items_per_second,
        )  # fmt: skip
        values = self._values(row) if self._trackers else {}
        for tracker in self._trackers:
            tracker.log(values, row.epoch)
        pace = (time.monotonic() - self._started) / self._reported
        done = {"epochs_done": row.epoch + 1, "epochs": self._epochs, "seconds_per_epoch": pace}
        write_json(self._progress, done)

    def _values(self, row: EpochRow) -> dict[str, float]:
        """Return the metrics of an epoch and GSNR of each block, by their names in trackers."""
        gsnr = {
            f"gsnr/{measured.estimator}/block-{measured.block}": measured.gsnr
            for measured in self._observer.rows(row.epoch)
        }
        return row.metrics() | gsnr
