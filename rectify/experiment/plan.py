"""What each job reads and is given: paths and settings, as the rules ask for them by wildcards.

Nothing here decides a number: all that does is in the settings and in the files.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from pydantic import BaseModel

from rectify import targets
from rectify.experiment import grid
from rectify.experiment.check import PAIRS, check_place
from rectify.experiment.codes import digest, digest_when_asked, modules
from rectify.experiment.repositories import repositories
from rectify.experiment.run import Run
from rectify.experiment.settings import Config
from rectify.experiment.wildcards import (
    OfFolder,
    OfLanguage,
    OfPage,
    OfPair,
    OfPairs,
    OfRun,
    OfSeed,
    OfSet,
    OfShift,
    OfTarget,
    OfVision,
)
from rectify.results.provenance import source_digest
from rectify.targets.contract import TargetSettings
from rectify.tasks import masks_modules, preparation_modules
from rectify.typed import check_known

TABLE_FILES = ("csv", "md", "tex")
FIGURE_FILES = ("csv", "pdf", "png", "svg")


class Plan:
    """The jobs of one configuration."""

    def __init__(self, config: Config):
        self.config, self.results = config, config.results.rstrip("/")
        self.targets, self.pages = grid.targets(config), grid.pages(config)
        self.made_here = [name for name, one in config.languages.items() if one.pretraining]
        self.pair_sets = [name for name, one in config.data.items() if one.task == PAIRS]
        self.repositories = repositories(config)

    # Code

    def code(self, rule: str, task: str | None = None) -> Callable[[object], str]:
        """Return a function of wildcards: the digest of the code that decides what a rule does."""
        return digest_when_asked(rule, task)

    def data_code(self, wildcards: OfSet) -> str:
        """Return the digest of the code that reads or draws a set."""
        entry = self.config.data[wildcards.set]
        return source_digest(*preparation_modules(entry.task, entry))

    def train_code(self, wildcards: OfRun) -> str:
        """Return the digest of the code that trains a run."""
        is_outlined = grid.is_outlined(self.config, self.run(wildcards))
        return digest("outlined_train" if is_outlined else "train", self._task(wildcards))

    def code_of_run(self, rule: str) -> Callable[[OfRun], str]:
        """Return a function of wildcards: the digest of the code that a rule uses on a run."""

        def of_run(wildcards: OfRun) -> str:
            return digest(rule, self._task(wildcards))

        return of_run

    def cost_code(self, wildcards: OfPair) -> str:
        """Return the digest of the code that measures what a model costs."""
        return digest("cost", self.config.data[grid.cost_table(self.config).data].task)

    def target_code(self, wildcards: OfTarget) -> str:
        """Return the digest of the code that makes a table or figure."""
        target = self.targets[wildcards.target]
        sets = {name for one in target.reads for name in self.config.experiments[one].data}
        return targets.code(target.kind, sorted({self.config.data[name].task for name in sets}))

    def page_code(self, wildcards: OfPage) -> str:
        """Return the digest of the code that makes the page, with the findings of its targets."""
        kinds = sorted({target.kind for target in self.targets.values()})
        return source_digest(*modules("page"), *map(targets.module_name, kinds))

    def _task(self, wildcards: OfRun) -> str:
        return self.config.data[self.run(wildcards).data].task

    # Data

    def data_settings(self, wildcards: OfSet) -> str:
        """Return what decides the items of a set, as JSON."""
        return _json(self.config.data[wildcards.set].preparation())

    def shift_settings(self, wildcards: OfShift) -> str:
        """Return what decides the items of a shifted version of a set, as JSON."""
        return _json(self.config.data[wildcards.set].preparation(wildcards.shift))

    def prepared(self, name: str) -> str:
        """Return the manifest of a prepared set."""
        return f"{self.results}/data/{name}/manifest.csv"

    def shifted(self, name: str) -> list[str]:
        """Return the manifests of a set's shifted versions in files."""
        shifts = self.config.data[name].shift_names
        return [f"{self.results}/data/{name}/shift-{shift}/manifest.csv" for shift in shifts]

    def mask_settings(self, wildcards: OfSet) -> str:
        """Return what decides the masks of a set, as JSON."""
        return _json(self.config.data[wildcards.set].that_decides("items", "masks"))

    def mask_code(self, wildcards: OfSet) -> str:
        """Return the digest of the code that finds or draws the masks of a set."""
        entry = self.config.data[wildcards.set]
        return source_digest(*masks_modules(entry.task, entry))

    def prepared_pairs(self, wildcards: OfPairs) -> list[str]:
        """Return the manifest of a set of image-caption pairs."""
        return [self.prepared(wildcards.pairs)]

    # Runs

    def run(self, wildcards: OfRun) -> Run:
        """Return the run that a path names, whose names must be in the configuration."""
        run = Run.parse(wildcards.run)
        for name, section in (
            (run.data, self.config.data),
            (run.vision, self.config.visions),
            *(((run.language, self.config.languages),) if run.language else ()),
        ):
            check_known(f"config: {wildcards.run}", name, section, "made of known names")
        check_place(self.config, run, f"config: {wildcards.run}")
        return run

    def run_settings(self, wildcards: OfRun) -> str:
        """Return what decides a run, as JSON."""
        return _json(grid.run_settings(self.config, self.run(wildcards)))

    def run_labels(self, wildcards: OfRun) -> str:
        """Return what is only shown of a run, as JSON."""
        return _json(grid.run_labels(self.config, self.run(wildcards)))

    def run_data(self, wildcards: OfRun) -> str:
        """Return the manifest of the set that a run learns."""
        return self.prepared(self.run(wildcards).data)

    def run_data_folder(self, wildcards: OfRun) -> str:
        """Return the folder of the set that a run learns."""
        return str(Path(self.run_data(wildcards)).parent)

    def run_shifts(self, wildcards: OfRun) -> list[str]:
        """Return the manifests of the shifted sets that a run is evaluated on."""
        return self.shifted(self.run(wildcards).data)

    def run_layer(self, wildcards: OfRun) -> list[str]:
        """Return the file of the layer that a run's training needs."""
        run = self.run(wildcards)
        if run.language is None:
            return []
        return [f"{self.results}/language/{run.language}/layer-{run.layer}.safetensors"]

    def kept_layer(self, wildcards: OfRun) -> list[str]:
        """Return the file of the layer that a run's model still has at test."""
        return [] if self.run(wildcards).variant == "auxiliary" else self.run_layer(wildcards)

    def run_states(self, wildcards: OfSeed) -> str:
        """Return the folder of an unfinished training's states: no output, so that it survives."""
        return f"{self.results}/states/{wildcards.run}/seed-{wildcards.seed}"

    def evaluation(self, wildcards: OfRun) -> str:
        """Return what decides a run's scores besides its weights, as JSON."""
        return _json(self.config.data[self.run(wildcards).data].that_decides("scores"))

    def run_masks(self, wildcards: OfRun) -> str:
        """Return the listing of the masks of a run's test images."""
        return f"{self.run_data_folder(wildcards)}/masks/masks.csv"

    def training_masks(self, wildcards: OfRun) -> list[str]:
        """Return the listing of the masks that a run's training needs."""
        is_needed = grid.is_outlined(self.config, self.run(wildcards))
        return [self.run_masks(wildcards)] if is_needed else []

    def filtering(self) -> str:
        """Return how activations are compared with masks, as JSON."""
        return _json(self.config.filtering.comparison)

    # Language models

    def checkpoint(self, wildcards: OfLanguage) -> str:
        """Return the folder or file of a language model."""
        if wildcards.language in self.made_here:
            return f"{self.results}/models/{wildcards.language}"
        return f"{self.config.languages[wildcards.language].checkpoint}"

    def untrained(self, wildcards: OfLanguage) -> list[str]:
        """Return the option that draws a language model's weights, or nothing."""
        seed = self.config.languages[wildcards.language].untrained
        return [] if seed is None else ["--untrained", f"{seed}"]

    def checkpoint_files(self, wildcards: OfLanguage) -> list[str]:
        """Return the files of a checkpoint that is made here; a job finds those of others."""
        if wildcards.language not in self.made_here:
            return []
        names = ("config.json", "model.safetensors", "tokenizer.json")
        return [f"{self.checkpoint(wildcards)}/{name}" for name in names]

    def checkpoint_settings(self, wildcards: OfLanguage) -> list[str]:
        """Return the settings file of a checkpoint that is made here."""
        return self.checkpoint_files(wildcards)[:1]

    def pretraining(self, wildcards: OfLanguage) -> str:
        """Return how a language model is pretrained, as JSON."""
        pretraining = self.config.languages[wildcards.language].pretraining
        return _json(pretraining.model_dump(exclude_none=True))

    def vision_settings(self, wildcards: OfVision) -> str:
        """Return a vision model, as JSON."""
        kept = {"timm", "overrides", "weights"}
        vision = self.config.visions[wildcards.vision].model_dump(include=kept, exclude_none=True)
        return _json({"name": wildcards.vision, **vision})

    def similarity(self, key: str) -> int | float:
        """Return a value of the similarity's settings; 0 where there are none."""
        return getattr(self.config.similarity, key) if self.config.similarity else 0

    def language_procedure(self) -> str:
        """Return which states of language models are features, as JSON."""
        similarity = self.config.similarity
        kept = {"embedding", "final_norm", "first_token"}
        return _json(similarity.procedure.model_dump(include=kept) if similarity else {})

    def clamp(self) -> str:
        """Return over what the quantile is taken at which features are clamped."""
        return self.config.similarity.procedure.clamp if self.config.similarity else "global"

    def cost_settings(self, wildcards: OfPair) -> str:
        """Return everything that decides the cost of a ViT with a layer, as JSON."""
        return _json(grid.cost_settings(self.config, wildcards.vision, wildcards.language))

    # Tables and figures

    def target_names(self, shows: str) -> list[str]:
        """Return the names of the targets that are a ``table`` or have a ``figure``."""
        return [
            name for name, one in self.targets.items() if shows in targets.module_of(one.kind).SHOWS
        ]

    def target_files(self, name: str) -> list[str]:
        """Return the files of a table or figure."""
        shows = targets.module_of(self.targets[name].kind).SHOWS
        table = [f"{self.results}/tables/{name}.{suffix}" for suffix in TABLE_FILES]
        figure = [f"{self.results}/figures/{name}.{suffix}" for suffix in FIGURE_FILES]
        return ("table" in shows) * table + ("figure" in shows) * figure

    def page_targets(self, wildcards: OfPage) -> list[str]:
        """Return the names of the targets of a page, in its order."""
        return self.pages[wildcards.page]

    def page_runs(self, wildcards: OfPage) -> list[str]:
        """Return the folders of the runs that the targets of a page read."""
        read = [self.targets[name] for name in self.pages[wildcards.page]]
        return list(dict.fromkeys(run for one in read for run in self._run_folders(one)))

    def page_run_files(self, wildcards: OfPage) -> list[str]:
        """Return what the pages of runs are made of."""
        return list(grid.run_files(self.page_runs(wildcards), self.config.seeds))

    def page_title(self, wildcards: OfPage) -> str:
        """Return the title of a page."""
        page = self.config.pages.get(wildcards.page)
        return self.config.title if page is None else page.title

    def page_files(self, folder: str = "", suffix: str = "") -> Callable[[OfPage], list[str]]:
        """Return a function of wildcards: a page's files, or those in a folder, of one kind."""
        start = f"{self.results}/{folder}"

        def of_page(wildcards: OfPage) -> list[str]:
            names = self.pages[wildcards.page]
            files = [file for name in names for file in self.target_files(name)]
            return [file for file in files if file.startswith(start) and file.endswith(suffix)]

        return of_page

    def everything(self, page: str = grid.MAIN_PAGE) -> list[str]:
        """Return the files of all tables and figures of a page, and the page."""
        files = [file for name in self.pages[page] for file in self.target_files(name)]
        return [*files, f"{self.results}/report/{page}.html"]

    def requests(self) -> dict[str, list[str]]:
        """Return the files by what people ask for: a target, experiment with its targets, page."""
        asked = {name: self.target_files(name) for name in self.targets}
        for experiment in self.config.experiments:
            readers = [name for name, one in self.targets.items() if experiment in one.reads]
            named = [experiment, *readers] if experiment in asked else readers
            files = dict.fromkeys(file for name in named for file in self.target_files(name))
            asked[experiment] = list(files)
        return asked | {page: self.everything(page) for page in self.config.pages}

    def target_inputs(self, wildcards: OfTarget) -> list[str]:
        """Return everything that a table or figure reads."""
        target = self.targets[wildcards.target]
        further = targets.module_of(target.kind).files
        names = ("predictions.parquet", *further)
        runs = grid.run_files(self._run_folders(target), self.config.seeds, names)
        sets = [self.prepared(name) for name in self._sets(target)]
        return [*runs, *self._similarities(target), *self._costs(target), *sets]

    def target_options(self, wildcards: OfTarget) -> list[str]:
        """Return what a table or figure reads, as options of the command."""
        target = self.targets[wildcards.target]
        return [
            *_option("--runs", self._run_folders(target)),
            *_option("--similarity", self._similarities(target)),
            *_option("--costs", self._costs(target)),
            *_option("--data", (f"{self.results}/data/{name}" for name in self._sets(target))),
        ]

    def target_settings(self, wildcards: OfTarget) -> str:
        """Return what a table or figure shows and in which order, as JSON."""
        target = self.targets[wildcards.target]
        experiments = [self.config.experiments[name] for name in target.reads]
        order = {
            factor: list(
                dict.fromkeys(name for one in experiments for name in getattr(one, key) or ())
            )
            for factor, key in (("data", "data"), ("vision", "vision"), ("language", "language"))
        }
        return _json(
            {
                "kind": target.kind,
                "settings": target.model_dump(mode="json"),
                "estimator": self.config.gsnr.estimator,
                "report": self.config.report,
                "paper": self.config.paper,
                "order": order,
                "titles": {
                    "data": {name: one.title for name, one in self.config.data.items()},
                    "vision": {name: one.title for name, one in self.config.visions.items()},
                    "language": {name: one.title for name, one in self.config.languages.items()},
                },
            }
        )

    def caption(self, wildcards: OfTarget) -> str:
        """Return the caption of a table or figure."""
        target = self.targets[wildcards.target]
        return targets.caption(target.kind, target.note)

    def fetch_options(self, wildcards: OfFolder) -> list[str]:
        """Return where a folder comes from, as options of the command."""
        source = self.repositories[wildcards.folder]
        return [word for name, value in source.items() if value for word in (f"--{name}", value)]

    def _run_folders(self, target: TargetSettings) -> list[str]:
        return [f"{self.results}/runs/{run.name}" for run in grid.runs_of(self.config, target)]

    def _sets(self, target: TargetSettings) -> list[str]:
        runs = grid.runs_of(self.config, target) * targets.module_of(target.kind).draws_items
        return list(dict.fromkeys(run.data for run in runs))

    def _similarities(self, target: TargetSettings) -> list[str]:
        """Return similarity tables: of trained ViTs one for each seed, of pretrained ones one."""
        data, pairs = grid.learnt(self.config, target), grid.pairs_of(self.config, target)
        return [
            f"{self.results}/similarity/{pairs}/{language}--{features}.csv"
            for language, vision in self.similar_pairs(target)
            for features in (
                [f"{vision}--pretrained"]
                if data is None
                else [f"{data}_{vision}_vanilla--seed-{seed}" for seed in self.config.seeds]
            )
        ]

    def _costs(self, target: TargetSettings) -> list[str]:
        pairs = self.cost_pairs(target)
        return [f"{self.results}/cost/{vision}--{language}.csv" for vision, language in pairs]

    def similar_pairs(self, target: TargetSettings) -> list[tuple[str, str]]:
        """Return the pairs of language model and ViT whose similarity a target reads."""
        return targets.module_of(target.kind).similarities(target, self.config)

    def cost_pairs(self, target: TargetSettings) -> list[tuple[str, str]]:
        """Return the pairs of ViT and language model whose cost a target reads."""
        return targets.module_of(target.kind).costs(target)


def _option(name: str, values: Iterable[str]) -> list[str]:
    words = list(values)
    return [name, *words] if words else []


def _json(value: object) -> str:
    """Return JSON with sorted keys: the order of keys in a YAML file changes nothing."""
    content = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return json.dumps(content, sort_keys=True)
