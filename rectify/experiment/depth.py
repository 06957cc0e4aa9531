"""How many blocks a vision model has: read from the model, once for each model and code.

A model is built without memory for its weights, on torch's ``meta`` device, and the answer is
kept (``rectify.results.remembered``). A training compares the depth with its own model, so a
wrong one could not pass unnoticed.
"""

import functools
import json

from rectify.experiment.codes import code_of
from rectify.experiment.settings import Config
from rectify.results.remembered import answer
from rectify.tasks.entry import TrunkSettings


def trunk_settings(config: Config, data: str, vision: str) -> TrunkSettings:
    """Return the trunk that learns a set, as its task builds it."""
    model, special = config.visions[vision], config.data[data].visions.get(vision)
    return TrunkSettings(
        name=vision,
        timm=model.timm,
        overrides=model.overrides,
        family=special and special.family,
        start=special and special.start,
    )


def depth_of(config: Config, data: str, vision: str) -> int:
    """Return how many blocks the trunk has that learns a set.

    Raises:
        ValueError: If the task cannot build it, or the configuration says another depth.
    """
    entry, settings = config.data[data], trunk_settings(config, data, vision)
    items = json.dumps(entry.that_decides("weights"), sort_keys=True)
    try:
        depth = _depth(entry.task, items, settings.model_dump_json())
    except ValueError as error:
        raise ValueError(f"config: visions.{vision} on {data}: {error}") from None
    said = config.visions[vision].depth
    if said not in (None, depth):
        raise ValueError(
            f"config: visions.{vision}.depth must be that of the model, {depth}, got {said}. "
            "Leave it out."
        )
    return depth


@functools.cache
def _depth(task: str, entry: str, settings: str) -> int:
    """Return the depth of a trunk, from the cache or from the trunk.

    Args:
        task: Name of the task.
        entry: What decides the weights of the set, as JSON.
        settings: The trunk's settings, as JSON.
    """
    key = (*code_of(task), entry, settings)
    return int(answer("depths", key, lambda: f"{_read(task, entry, settings)}"))


def _read(task: str, entry: str, settings: str) -> int:
    """Build a trunk and count its blocks."""
    import torch

    from rectify.counting import Counter
    from rectify.tasks import find
    from rectify.trunks.kinds import as_trunk

    found = find(task)
    fields, vision = json.loads(entry), TrunkSettings.model_validate_json(settings)
    with torch.device("meta"), Counter():  # which knows what first weights are drawn by
        trunk = found.trunk(found.settings.for_run(fields), vision, None)
    return len(as_trunk(trunk).blocks)
