"""The configuration, typed: every key once, with its rule and its meaning.

Mappings are merged over each other before they are read; unknown keys are errors at every
level. ``rectify schema`` prints the JSON schema for editors.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PositiveInt,
    SerializeAsAny,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from rectify.controls import CONTROLS, INSERTED, RECTIFIED, VARIANTS
from rectify.demo.pretraining import Pretraining
from rectify.experiment.run import FROZEN, POSITIONS, EveryStep
from rectify.filtering.settings import FilteringSection
from rectify.results.declared import (
    ESTIMATORS,
    GSNR_GROUPS,
    GSNR_LABELS,
    GSNR_LOSSES,
    GSNR_MODELS,
    GSNR_MODES,
    GSNR_PARAMETERS,
    REPORTS,
)
from rectify.targets import kind_of
from rectify.targets import settings_of as target_settings
from rectify.targets.contract import TargetSettings
from rectify.tasks import settings_of as task_settings
from rectify.tasks.entry import DEFAULT_TASK, Entry, Hub, Place, Text
from rectify.training.recipes import Recipe, recipe
from rectify.training.trackers import TRACKERS
from rectify.typed import Closed, Layer, Listed, Name, Seeds, Several, TargetName, parse


def _position(value: object) -> str:
    text = f"{value}"
    if text not in POSITIONS and not text.isdecimal():
        raise ValueError(f"must be {', '.join(POSITIONS)} or a number of blocks")
    return text


def _named(names: Iterable[str]) -> AfterValidator:
    known = tuple(names)

    def check(value: str) -> str:
        if value not in known:
            raise ValueError(f"must be one of {', '.join(known)}")
        return value

    return AfterValidator(check)


Position = Annotated[
    str,
    BeforeValidator(_position),
    WithJsonSchema({"anyOf": [{"enum": list(POSITIONS)}, {"type": "integer", "minimum": 0}]}),
]
Weight = Annotated[float, Field(ge=0, le=1)]
Variant = Annotated[str, _named(VARIANTS)]
Control = Annotated[str, _named(CONTROLS)]
Estimator = Annotated[str, _named(ESTIMATORS)]


class Source(Closed):
    """Where a folder can be downloaded from by ``snakemake fetch``."""

    hub: Hub | None = Field(None, description="Repository of the hub: owner/name.")
    revision: Text | None = Field(None, description="Commit, tag or branch; the default if null.")
    FOLDER: ClassVar[str]

    @model_validator(mode="after")
    def _is_downloaded_somewhere(self) -> "Source":
        for key, needed in (("revision", "hub"), ("hub", self.FOLDER)):
            if getattr(self, key) is not None and getattr(self, needed) is None:
                raise ValueError(f"{key} must come with {needed}")
        return self


class Vision(Source):
    """A vision transformer of timm."""

    FOLDER: ClassVar[str] = "weights"

    title: str = Field(description="Label in tables and figures.")
    timm: Text = Field(
        description="Name in timm, with the tag of its published weights: augreg_in21k if none."
    )
    depth: PositiveInt | None = Field(
        None, description="Number of blocks. It is read from the model; another one is an error."
    )
    overrides: dict[str, object] = Field({}, description="Further arguments of timm.create_model.")
    weights: Place | None = Field(
        None, description="Folder with pretrained weights, or their file; the hub's cache if null."
    )


class Language(Source):
    """A language model: a checkpoint, or one that is pretrained here."""

    FOLDER: ClassVar[str] = "checkpoint"

    title: str = Field(description="Label in tables and figures.")
    layers: PositiveInt = Field(description="Number of decoder layers.")
    checkpoint: Place | None = Field(
        None, description="Folder in Hugging Face's or Meta's format, or a .gguf file."
    )
    untrained: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Seed of weights that are drawn in place of the checkpoint's."
    )
    pretraining: Pretraining | None = None
    training: dict[str, object] = Field(
        {}, description="Changed values of the recipe of runs with this model, e.g. its lr."
    )

    @model_validator(mode="after")
    def _has_one_origin(self) -> "Language":
        if (self.checkpoint is None) == (self.pretraining is None):
            raise ValueError("a language model must have a checkpoint or pretraining, not both")
        if self.untrained is not None and self.checkpoint is None:
            raise ValueError("untrained must come with checkpoint; pretraining has steps: 0")
        if self.pretraining is not None and self.pretraining.layers != self.layers:
            raise ValueError(f"layers must be those of the pretraining, {self.pretraining.layers}")
        return self


class Rectifier(Closed):
    """What is inserted besides the frozen layer."""

    final_norm: Literal["unit", "none", "loaded"] = Field(
        "unit", description="RMS norm after the layer: unit gain, none, or the model's own."
    )


class Auxiliary(Closed):
    """The second loss path."""

    lambda_floor: Weight = Field(0.10, description="Below this the weight never falls (Eq. 9).")


class Gsnr(Closed):
    """How GSNR is measured, and which estimator is shown."""

    batches: PositiveInt = Field(10, description="T of Eq. 3: measured batches of an epoch.")
    estimator: Estimator = Field("plain", description="Shown; all are always measured.")
    xi: Annotated[float, Field(gt=0)] = Field(1e-8, description="Added to the variance by `xi`.")
    mode: Annotated[str, _named(GSNR_MODES)] = "observe"
    loss: Annotated[str, _named(GSNR_LOSSES)] = "total"
    group: Annotated[str, _named(GSNR_GROUPS)] = Field(
        "batch",
        description="Samples that are compared: the whole batch, the part of one process, or one "
        "accumulated slice of it.",
    )
    model: Annotated[str, _named(GSNR_MODELS)] = Field(
        "train", description="With dropout and stochastic depth, or in a pass without them."
    )
    labels: Annotated[str, _named(GSNR_LABELS)] = Field(
        "soft",
        description="As the batch is trained, or without Mixup, CutMix and smoothed labels: in a "
        "pass of its own.",
    )
    parameters: Annotated[str, _named(GSNR_PARAMETERS)] = Field(
        "all", description="All of a block, or its matrices only, without biases and norms."
    )
    every_step: EveryStep | None = Field(
        None, description="The noise of every step, into noise.csv; null measures none."
    )

    @model_validator(mode="after")
    def _replaces_what_trains(self) -> "Gsnr":
        for key, needed in (("loss", "total"), ("model", "train"), ("labels", "soft")):
            value = getattr(self, key)
            if self.mode == "replace" and value != needed:
                raise ValueError(
                    f"config: gsnr.{key} must be {needed} where gsnr.mode is replace, got {value}. "
                    "Set gsnr.mode to observe."
                )
        if self.every_step is not None and self.loss != "total":
            raise ValueError(
                "config: gsnr.loss must be total where gsnr.every_step is set, got "
                f"{self.loss}. Set one of them otherwise."
            )
        return self


class Procedure(Closed):
    """Where the published command line of Huh et al. (2024) differs from their paper."""

    embedding: bool = Field(False, description="Whether the embedding is a layer, too: layer -1.")
    final_norm: bool = Field(
        False, description="Whether the last layer's output passes the model's final norm."
    )
    first_token: bool = Field(
        True, description="Whether a caption's first token is in the mean over its tokens."
    )
    clamp: Literal["global", "per_layer", "per_sample"] = Field(
        "global",
        description="Over what the quantile is taken: all values, those of a layer, or those of "
        "an item, whose mean is taken then.",
    )


class Similarity(Closed):
    """Mutual-KNN between language models and vision transformers (Eq. 4)."""

    pairs: Name = Field(description="Data set of image-caption pairs.")
    vision: Literal["pretrained", "trained"] = "pretrained"
    data: Name | None = Field(None, description="With `trained`: what those runs learn.")
    k: PositiveInt = 10
    quantile: Annotated[float, Field(gt=0, le=1)] = 0.95
    permutations: Annotated[int, Field(ge=19)] = Field(
        200, description="Of the items, for p values; at least 19 for one of 0.05."
    )
    batch_size: PositiveInt = 16
    procedure: Procedure = Procedure()

    @model_validator(mode="after")
    def _clamps_what_is_clamped(self) -> "Similarity":
        if self.quantile == 1 and self.procedure.clamp != "global":
            raise ValueError(
                "config: similarity.procedure.clamp must have an effect, got "
                f"{self.procedure.clamp} with similarity.quantile 1. Lower the quantile."
            )
        return self

    @model_validator(mode="after")
    def _names_the_data_of_trained_models(self) -> "Similarity":
        if (self.vision == "trained") != (self.data is not None):
            raise ValueError(
                f"config: similarity.data must name a set where similarity.vision is trained, and "
                f"only there, got {self.data} with {self.vision}. Correct similarity.data."
            )
        return self


class Experiment(Closed):
    """A product of factors that gives runs; their vanilla runs are added by themselves."""

    data: Several[Name]
    vision: Several[Name]
    variant: Several[Variant] = ("vanilla",)
    control: Several[Control] | None = None
    language: Several[Name] | None = None
    layer: Several[Layer] | None = Field(
        None, description="Decoder layers, from 0, or rows as 30-31; the last one unless given."
    )
    position: Several[Position] | None = Field(
        None, description="early, middle, end, or the number of blocks before it; end unless given."
    )
    weights: Several[Weight] | None = Field(
        None, alias="lambda", description="First weight of the auxiliary loss; 0: no second path."
    )

    @model_validator(mode="after")
    def _has_an_effect(self) -> "Experiment":
        rules = (
            ("language", self.language, {*RECTIFIED}),
            ("layer", self.layer, {*RECTIFIED}),
            ("control", self.control, {*RECTIFIED}),
            ("position", self.position, {*INSERTED}),
            ("lambda", self.weights, {"auxiliary"}),
        )
        for factor, value, variants in rules:
            if value is not None and not variants & set(self.variant):
                raise ValueError(
                    f"a factor must have an effect, and {factor} has none with variant "
                    f"{' and '.join(self.variant)}"
                )
        if {*RECTIFIED} & set(self.variant) and self.language is None:
            raise ValueError(f"{', '.join(RECTIFIED)} must have a language")
        if "auxiliary" in self.variant and self.weights is None:
            raise ValueError("auxiliary must have a lambda")
        for control in self.control or ():
            if control != FROZEN and not set(CONTROLS[control].variants) & set(self.variant):
                raise ValueError(f"control {control} must have a variant that it exists for")
        return self


class Page(Closed):
    """Tables and figures that are asked for together, and not with ``all``."""

    title: str = Field(description="Title of the page.")
    targets: Several[TargetName] = Field(description="Tables and figures, by name.")


class Config(Closed):
    """Everything about the experiments of one results folder."""

    results: Place = Field(description="Folder that holds everything this configuration makes.")
    title: str = Field("Experiments", description="Title of the report.")
    credits: Listed[Text] = Field(
        (), description="Whose pictures and models are used; at the foot of each page."
    )
    seeds: Seeds = Field(description="Training seeds.")
    threads: PositiveInt = Field(1, description="CPU threads of a training job.")
    device_gpus: Annotated[int, Field(ge=0)] = Field(
        0, description="GPUs of a training job, on each of its nodes; 0 trains on the CPU."
    )
    device_nodes: PositiveInt = Field(
        1, description="Nodes that share a training; several need SLURM."
    )
    data: dict[Name, SerializeAsAny[Entry]] = Field(description="Data sets by name.")
    visions: dict[Name, Vision] = Field(description="Vision models by name.")
    languages: dict[Name, Language] = Field({}, description="Language models by name.")
    training: dict[str, object] = Field({}, description="A recipe by name, and changed values.")
    auxiliary: Auxiliary = Auxiliary()
    rectifier: Rectifier = Rectifier()
    gsnr: Gsnr = Gsnr()
    report: Annotated[str, _named(REPORTS)] = Field(
        "last",
        description="Epoch whose headline metric is shown: the last, or the best on the test set, "
        "as Pang's code reports. Both are always kept.",
    )
    paper: bool = Field(
        True, description="Whether the papers' numbers are beside ours, where they are comparable."
    )
    trackers: Listed[Annotated[str, _named(TRACKERS)]] = Field(
        (), description=f"What shows the curves of trainings, of {', '.join(TRACKERS)}."
    )
    similarity: Similarity | None = None
    experiments: dict[Name, Experiment] = Field(description="Products of factors by name.")
    filtering: FilteringSection = FilteringSection()
    targets: dict[TargetName, SerializeAsAny[TargetSettings]] = Field(
        {}, description="Tables and figures by name; what each reads and shows."
    )
    pages: dict[Name, Page] = Field(
        {}, description="Pages beside that of `all`, whose tables and figures are not in it."
    )

    @property
    def processes(self) -> int:
        """Processes that share a training: one for each GPU, or one on each node without."""
        return self.device_nodes * max(1, self.device_gpus)

    @field_validator("data", mode="before")
    @classmethod
    def _by_task(cls, value: object) -> object:
        """Read each data set as the group of settings that its task declares."""
        if not isinstance(value, dict):
            return value
        return {name: _entry(name, entry) for name, entry in value.items()}

    @field_validator("targets", mode="before")
    @classmethod
    def _by_kind(cls, value: object) -> object:
        """Read each target as the group of settings that its kind declares."""
        if not isinstance(value, dict):
            return value
        return {name: _target(name, settings) for name, settings in value.items()}

    @field_validator("training")
    @classmethod
    def _is_a_recipe(cls, value: dict[str, object]) -> dict[str, object]:
        recipe_from(value)
        return value

    @model_validator(mode="after")
    def _gives_each_process_a_thread(self) -> "Config":
        if self.device_nodes > 1 and self.threads < self.device_gpus:
            least = f"device_gpus, {self.device_gpus}, on several device_nodes"
            raise ValueError(f"threads must be at least {least}, got {self.threads}")
        return self


def _entry(name: object, entry: object) -> object:
    if not isinstance(entry, dict):
        return entry
    task = entry.get("task", DEFAULT_TASK)
    if not isinstance(task, str):
        raise ValueError(f"config: data.{name}.task must be a task's name, got {task!r}. Name one.")
    return parse(task_settings(task), entry, f"data.{name}")


def _target(name: object, settings: object) -> object:
    if not isinstance(settings, dict):
        return settings
    kind = kind_of(name, settings.get("kind"))
    return parse(target_settings(kind), {**settings, "kind": kind}, f"targets.{name}")


def recipe_from(values: Mapping[str, object]) -> Recipe:
    """Return the complete recipe of values with a recipe's name, ``paper`` unless given.

    Raises:
        ValueError: If a value is unknown or cannot be right.
    """
    changes = {key: value for key, value in values.items() if key != "recipe"}
    return recipe(values.get("recipe", "paper"), **changes)
