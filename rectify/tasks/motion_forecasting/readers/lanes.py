"""Cars on a road to a junction, drawn."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rectify.data.forecasts import ForecastSet

EMBEDDED = IN_MEMORY = True
STEPS = {"observed": 20, "future": 30}


def read(
    *, seed: int = 0, train_items: int = 1000, test_items: int = 300
) -> "dict[str, ForecastSet]":
    """Return train and test: see ``rectify.demo.lanes.lanes``."""
    from rectify.demo.lanes import lanes

    return lanes(seed=seed, train_items=train_items, test_items=test_items)
