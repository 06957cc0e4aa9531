"""How a small language model is pretrained here; no torch."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from rectify.typed import Closed


class Pretraining(Closed):
    """A small language model of characters, trained on Unicode names."""

    family: Literal["llama", "opt"]
    layers: PositiveInt
    hidden: Annotated[int, Field(ge=8)]
    heads: PositiveInt
    steps: Annotated[int, Field(ge=0)] = Field(description="0 leaves the model untrained.")
    batch_size: PositiveInt | None = None
    context: Annotated[int, Field(ge=8)] | None = None
    lr: Annotated[float, Field(gt=0)] | None = None
