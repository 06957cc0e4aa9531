"""Items per second of a run's training steps on this machine, with random weights and items.

What `rectify plan` takes by ``--speed``: a step has as many passes, of as many items, as that of a
training on one GPU. Reading items is not timed, as in all that a plan says.
"""

import torch

from rectify.cost import exemplary
from rectify.experiment import grid
from rectify.experiment.plan import Plan
from rectify.experiment.run import Run
from rectify.experiment.work import Subject, built, subject
from rectify.speed import check_memory, fill, step_seconds
from rectify.tasks.entry import TrunkSettings
from rectify.training.recipes import Recipe


def items_per_second(plan: Plan, run: Run, device: torch.device) -> float:
    """Return the speed of a training on one device.

    Raises:
        ValueError: If the task has no items to time with, its model cannot be built, or memory is
            too small.
    """
    return _timed(subject(plan, run), grid.recipe_of(plan.config, run), device)


def _timed(what: Subject, recipe: Recipe, device: torch.device) -> float:
    task = exemplary(what.task, "speeds")
    with torch.device("meta"):
        values = sum(tensor.numel() for tensor in built(what)[0].parameters())
    check_memory(4 * values, device)
    model, _ = built(what)
    fill(model, recipe.precision, device)
    entry, vision = task.settings.for_run(what.entry), TrunkSettings(**what.vision)
    items = recipe.batch_size * recipe.augment_repeats
    batch = task.example(entry, vision, items // recipe.accumulate, device)
    seconds = step_seconds(
        model,
        batch,
        task.losses,
        passes=recipe.accumulate,
        is_compiled=recipe.compile,
        precision=recipe.precision,
        device=device,
    )
    return items / seconds
