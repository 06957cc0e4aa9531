"""What must be there before the first job: folders of data sets, published models."""

from rectify import targets
from rectify.experiment import grid
from rectify.experiment.plan import Plan


def data_folders(plan: Plan) -> dict[str, list[str]]:
    """Return the folders of each data set that jobs read, by its name."""
    used = {run.data for run in grid.all_runs(plan.config)}
    used |= {
        grid.pairs_of(plan.config, target)
        for target in plan.targets.values()
        if plan.similar_pairs(target)
    }
    masked = {
        run.data
        for target in plan.targets.values()
        if targets.module_of(target.kind).files
        for run in grid.runs_of(plan.config, target)
    }
    entries = {name: entry for name, entry in plan.config.data.items() if name in used}
    return {
        name: [
            entry.folder,
            *(entry.preparation(shift)["shifts"][shift] for shift in entry.shift_names),
            *(entry.mask_folders if name in masked else ()),
        ]
        for name, entry in entries.items()
        if entry.folder is not None
    }


def model_places(plan: Plan) -> dict[str, str]:
    """Return the files and folders of published models that jobs read, by what they are."""
    config = plan.config
    places = {
        f"checkpoint {name}": f"{config.languages[name].checkpoint}"
        for name in published_languages(plan)
    }
    for run in grid.all_runs(config):
        if start := grid.run_settings(config, run).vision.start:
            places[f"start of {run.vision} on {run.data}"] = start
    for target in plan.targets.values():
        for _, vision in plan.similar_pairs(target):
            weights = config.visions[vision].weights
            if weights and grid.learnt(config, target) is None:
                places[f"weights of {vision}"] = weights
    return dict(sorted(places.items()))


def published_languages(plan: Plan) -> list[str]:
    """Return the names of the language models that jobs read, but those that are made here."""
    names = {run.language for run in grid.all_runs(plan.config)}
    for target in plan.targets.values():
        names |= {language for language, _ in plan.similar_pairs(target)}
        names |= {language for _, language in plan.cost_pairs(target)}
    return sorted(names - {None, *plan.made_here})
