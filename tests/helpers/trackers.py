"""Stand-ins for wandb, mlflow and trackio: the calls that their documentation names, and a memory.

They have the parameters that are used here, under the clients' names. What a service would show is
in `Service`: for each run its name, the values by metric and step, and whether it has ended.
"""

import sys
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest


@dataclass
class Shown:
    """A run, as its service shows it."""

    name: str
    project: str
    config: dict = field(default_factory=dict)
    values: list[tuple[str, int, float]] = field(default_factory=list)
    has_ended: bool = False

    def add(self, values: dict[str, float], step: int) -> None:
        assert not self.has_ended
        self.values += [(name, step, value) for name, value in values.items()]


class Service:
    """Runs by what tells them apart."""

    def __init__(self):
        self.runs: dict[str, Shown] = {}
        self.refuses = False

    def opened(self, key: str, name: str, project: str) -> Shown:
        run = self.runs.setdefault(key, Shown(name, project))
        run.has_ended = False
        return run


class WandbRun:
    """What ``wandb.init`` returns; all metrics are shown over the one that is named."""

    def __init__(self, shown: Shown):
        self.shown, self.over = shown, None

    def define_metric(self, name: str, step_metric: str) -> None:
        assert name == "*"
        self.over = step_metric

    def log(self, data: dict[str, float]) -> None:
        self.shown.add({k: v for k, v in data.items() if k != self.over}, data[self.over])

    def finish(self) -> None:
        self.shown.has_ended = True


def wandb(service: Service) -> list[ModuleType]:
    class Error(Exception):
        pass

    def init(*, project: str, name: str, id: str, resume: str, dir: str, config: dict) -> WandbRun:
        if service.refuses:
            raise Error("api_key not configured (no-tty). call wandb.login.\nmore")
        assert resume == "allow"
        assert len(id) <= 64
        shown = service.opened(id, name, project)
        shown.config = config
        return WandbRun(shown)

    return [module("wandb", init=init, Error=Error)]


class MlflowClient:
    """Of a server in memory."""

    def __init__(self, service: Service):
        self.service = service

    def get_experiment_by_name(self, name: str) -> SimpleNamespace | None:
        known = {run.project for run in self.service.runs.values()}
        return SimpleNamespace(experiment_id=name) if name in known else None

    def create_experiment(self, name: str) -> str:
        return name

    def search_runs(self, experiment_ids: list[str], filter_string: str, max_results: int) -> list:
        identity = filter_string.removeprefix("tags.`rectify.identity` = '").removesuffix("'")
        return [self.found(identity)] * (identity in self.service.runs)

    def create_run(self, experiment_id: str, tags: dict, run_name: str) -> SimpleNamespace:
        (identity,) = tags.values()
        self.service.opened(identity, run_name, experiment_id)
        return self.found(identity)

    def found(self, identity: str) -> SimpleNamespace:
        return SimpleNamespace(info=SimpleNamespace(run_id=identity))

    def update_run(self, run_id: str, status: str) -> None:
        assert status == "RUNNING"
        self.service.runs[run_id].has_ended = False

    def log_dict(self, run_id: str, dictionary: dict, artifact_file: str) -> None:
        assert artifact_file == "config.json"
        self.service.runs[run_id].config = dictionary

    def log_batch(self, run_id: str, metrics: list) -> None:
        for metric in metrics:
            assert metric.timestamp > 1e12  # milliseconds
            self.service.runs[run_id].add({metric.key: metric.value}, metric.step)

    def set_terminated(self, run_id: str) -> None:
        self.service.runs[run_id].has_ended = True


def mlflow(service: Service) -> list[ModuleType]:
    class MlflowException(Exception):
        pass

    def client() -> MlflowClient:
        if service.refuses:
            raise MlflowException("Model registry functionality is unavailable.")
        return MlflowClient(service)

    def metric(key: str, value: float, timestamp: int, step: int) -> SimpleNamespace:
        return SimpleNamespace(key=key, value=value, timestamp=timestamp, step=step)

    return [
        module("mlflow", MlflowClient=client, __path__=[]),
        module("mlflow.exceptions", MlflowException=MlflowException),
        module("mlflow.entities", Metric=metric),
    ]


def trackio(service: Service) -> list[ModuleType]:
    def init(project: str, name: str, *, resume: str, config: dict, embed: bool) -> SimpleNamespace:
        assert (resume, embed) == ("allow", False)
        shown = service.opened(name, name, project)
        shown.config = config
        return SimpleNamespace(
            log=lambda metrics, step: shown.add(metrics, step),
            finish=lambda: setattr(shown, "has_ended", True),
        )

    return [module("trackio", init=init)]


def module(name: str, **names: object) -> ModuleType:
    """Return a module that can be imported, and found."""
    made = ModuleType(name)
    made.__spec__ = ModuleSpec(name, None)
    vars(made).update(names)
    return made


CLIENTS = (wandb, mlflow, trackio)


def services(patch: pytest.MonkeyPatch) -> dict[str, Service]:
    """Put the stand-ins in the clients' places, and return the service of each by its name."""
    made = {client.__name__: Service() for client in CLIENTS}
    for client in CLIENTS:
        for stand_in in client(made[client.__name__]):
            patch.setitem(sys.modules, stand_in.__name__, stand_in)
    return made
