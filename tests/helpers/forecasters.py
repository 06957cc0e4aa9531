"""What the tests of both models of motion forecasting share."""

from typing import TypeVar

import torch
from torch import Tensor, nn

from rectify.data.forecasts import OBSERVED
from rectify.demo.lanes import lanes

Model = TypeVar("Model", bound=nn.Module)


def roughened(model: Model) -> Model:
    """Return the model with noise on each parameter: ones and zeros hide mistakes."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.rand_like(parameter))
    return model


def observed() -> dict[str, Tensor]:
    """Return the observed steps of four drawn scenes; the first has a gap at step 11."""
    batch = lanes(train_items=4, test_items=1)["train"].batch(torch.arange(4))
    batch["tracks"], batch["seen"] = batch["tracks"][:, :, :20], batch["seen"][:, :, :20].clone()
    batch["seen"][0, 0, 11] = False
    return batch


def constant_velocity(tracks: Tensor, observed: int = OBSERVED) -> Tensor:
    """Return where agents (batch, agents, steps, 2) are at the mean speed of their last second."""
    now = tracks[:, :, observed - 1]
    step = (now - tracks[:, :, observed - 11]) / 10
    ahead = torch.arange(1, tracks.shape[2] - observed + 1)
    return now[:, :, None] + step[:, :, None] * ahead[:, None]
