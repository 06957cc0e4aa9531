"""Where a training's curves are followed: TensorBoard, Weights & Biases, MLflow, Trackio.

Each gets the same numbers, with the epoch as step: the metrics of the history, and GSNR as
``gsnr/<estimator>/block-<n>``. A training that resumes continues its curves; another one, e.g. of
another recipe, has another identity and begins its own. Where they go is said to each client by
its own variables (``WANDB_MODE``, ``MLFLOW_TRACKING_URI``, ``TRACKIO_SPACE_ID``, ...).
"""

import importlib.util
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

PROJECT = "rectify"
"""Where the client's variable names no other."""


@dataclass(frozen=True)
class Followed:
    """The training that is followed."""

    name: str
    """Of its run and seed."""
    identity: str
    """Digest of everything that decides its results."""
    settings: Mapping[str, object]
    """What ``config.json`` says."""
    folder: Path
    """For files of the trackers, of this training alone."""


@runtime_checkable
class Tracker(Protocol):
    """A client that is open."""

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        """Show values of an epoch, by their names."""

    def close(self) -> None:
        """Write what is left, and end; the training may resume later."""


class TensorBoard:
    """Event files; what an earlier attempt wrote of an epoch and later ones is dropped."""

    def __init__(self, followed: Followed):
        self._folder, self._writer = followed.folder, None

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if self._writer is None:
            self._writer = SummaryWriter(self._folder, purge_step=epoch)
        for name, value in values.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class WeightsAndBiases:
    """A run of wandb, called by the identity; its files are in the folder."""

    def __init__(self, followed: Followed):
        import wandb

        followed.folder.mkdir(parents=True, exist_ok=True)
        with _one_line("wandb", wandb.Error, "Run `wandb login`, or set WANDB_MODE to offline"):
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                name=followed.name,
                id=followed.identity[:32],
                resume="allow",
                dir=f"{followed.folder}",
                config=dict(followed.settings),
            )
        self._run.define_metric("*", step_metric="epoch")

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        self._run.log({**values, "epoch": epoch})

    def close(self) -> None:
        self._run.finish()


class Mlflow:
    """A run of an experiment of MLflow, found again by a tag."""

    tag = "rectify.identity"

    def __init__(self, followed: Followed):
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        with _one_line("mlflow", MlflowException, "Correct MLFLOW_TRACKING_URI"):
            self._client = client = MlflowClient()
            experiment = client.get_experiment_by_name(name)
            number = experiment.experiment_id if experiment else client.create_experiment(name)
            query = f"tags.`{self.tag}` = '{followed.identity}'"
            runs = client.search_runs([number], query, max_results=1)
            if not runs:
                tags = {self.tag: followed.identity}
                runs = [client.create_run(number, tags=tags, run_name=followed.name)]
            self._run = runs[0].info.run_id
            client.update_run(self._run, status="RUNNING")
            client.log_dict(self._run, dict(followed.settings), "config.json")

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, epoch) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self._run)


class Trackio:
    """A run of Trackio, in its folder of this user unless ``TRACKIO_SPACE_ID`` names a Space."""

    def __init__(self, followed: Followed):
        import trackio

        self._run = trackio.init(
            project=PROJECT,
            name=f"{followed.name}--{followed.identity[:8]}",
            resume="allow",
            config=dict(followed.settings),
            embed=False,
        )

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        self._run.log(dict(values), step=epoch)

    def close(self) -> None:
        self._run.finish()


TRACKERS: dict[str, type[TensorBoard | WeightsAndBiases | Mlflow | Trackio]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": Mlflow,
    "trackio": Trackio,
}
"""By the name in a configuration, which is that of the package."""


def opened(names: Sequence[str], followed: Followed) -> list[Tracker]:
    """Return open trackers.

    Args:
        names: Of `TRACKERS`.
        followed: The training.

    Raises:
        ValueError: If a package is missing, or its service refuses.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ValueError(
                f"train: --trackers {name} must have the package {name}, got none. "
                "Install it, or leave it out of `trackers` in the configuration."
            )
    return [TRACKERS[name](followed) for name in names]


@contextmanager
def _one_line(name: str, kind: type[Exception], change: str) -> Iterator[None]:
    """Turn what a client refuses into one line."""
    try:
        yield
    except kind as error:
        reason = f"{error}".strip().partition("\n")[0].rstrip(".")
        raise ValueError(
            f"train: {name} must accept this training, got {reason}. {change}, or leave it out of "
            "`trackers` in the configuration."
        ) from None
