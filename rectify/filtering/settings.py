"""What is chosen where the paper on information filtering leaves it open; no torch."""

from typing import Annotated, Literal

from pydantic import Field

from rectify.typed import Closed


class Filtering(Closed):
    """How activations are compared with masks (Pang et al., 2024, Sec. 6 and A.3)."""

    cover: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5,
        description="Share of a token's pixels, or points, that must be of the object; 0: any.",
    )
    center: Literal["image", "column"] = Field(
        "image",
        description="Tokens whose mean is subtracted: all of the image, as the paper's text says, "
        "or those of a column, as its pseudo-code does. The tokens of a cloud are one column.",
    )
    after_attention: Literal["stream", "update"] = Field(
        "stream",
        description="Tokens after the frozen layer's attention: with what it is added to, or what "
        "it adds alone.",
    )


class FilteringSection(Filtering):
    """The same, and when it is done."""

    over_epochs: bool = Field(
        False,
        description="Whether trainings on sets with masks compare them after every epoch, too; "
        "what is chosen here is then part of these trainings.",
    )

    @property
    def comparison(self) -> Filtering:
        """How activations are compared, whenever that is."""
        return Filtering(**self.model_dump(exclude={"over_epochs"}))
