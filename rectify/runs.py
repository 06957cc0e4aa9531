"""What distinguishes one training from another, and the name that says so.

A run's name can be read back:

    glyphs_vit-s_vanilla
    glyphs_vit-s_insert_llama-7b_layer-31_end
    glyphs_vit-s_auxiliary_llama-7b_layer-31_end_lambda-0.35
"""

import re
from dataclasses import dataclass

NAME = "[a-z0-9]+([.-][a-z0-9]+)*"  # as in the schema
VARIANTS = ("vanilla", "insert", "auxiliary", "adapter", "mlp", "random", "tuned")
POSITIONS = ("early", "middle", "end")


@dataclass(frozen=True)
class Run:
    """What distinguishes one training from another, apart from its seed."""

    data: str
    vision: str
    variant: str = "vanilla"
    language: str | None = None
    layer: int | None = None
    position: str | None = None
    lambda_init: float = 0.0

    @property
    def name(self) -> str:
        """The run's name, from which ``parse`` gives back the run."""
        fields = [self.data, self.vision, self.variant]
        if self.language is not None:
            fields += [self.language, f"layer-{self.layer}", str(self.position)]
        if self.variant == "auxiliary":
            fields.append(f"lambda-{self.lambda_init}")
        return "_".join(fields)

    @classmethod
    def parse(cls, name: str) -> "Run":
        """Return the run that a name stands for.

        Raises:
            ValueError: If the name does not follow the grammar.
        """
        fields = name.split("_")
        try:
            run = cls(*fields[:3], *_parse_block(fields[3:]))
        except (ValueError, IndexError, TypeError):
            run = None
        if run is None or run.name != name or not run._is_valid:
            raise ValueError(
                f"config: a run must be named <data>_<vision>_<variant>[_<language>_layer-<n>_"
                f"<position>[_lambda-<x>]], got {name!r}. Ask for one that `snakemake -n` lists."
            )
        return run

    @property
    def _is_valid(self) -> bool:
        names = (self.data, self.vision, self.language or "none")
        bare = (self.variant == "vanilla", self.language is None, self.position not in POSITIONS)
        return (
            all(re.fullmatch(NAME, name) for name in names)
            and self.variant in VARIANTS
            and len(set(bare)) == 1
            and (self.layer or 0) >= 0
            and (0 < self.lambda_init <= 1 or self.variant != "auxiliary")
        )


def _parse_block(fields: list[str]) -> tuple:
    if not fields:
        return ()
    language, layer, position, *weight = fields
    parsed = language, int(layer.removeprefix("layer-")), position
    return (*parsed, float(weight[0].removeprefix("lambda-"))) if weight else parsed
