"""Where the language model is in a checkpoint: what comes before the names of its tensors.

transformers' own models have ``model.``, ``transformer.`` and the like there, or nothing. What
wraps a model puts more before it: ``module.``, ``_orig_mod.``, ``base_model.model.``; and models
of pictures and texts have their language model under a name, ``language_model.model.``.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from transformers import PretrainedConfig

from rectify.language.families import FAMILIES, empty_layer
from rectify.language.files import tensor_names
from rectify.language.hugging_face_format import adapter_refusal
from rectify.language.quantised import check_not_packed

HEADS = ("lm_head", "embed_out")  # the output, which stands beside the model


def prefix_of(checkpoint: Path, config: PretrainedConfig) -> str:
    """Return what comes before the names of the language model's tensors, with its last point.

    It is the one under which some layer has all names that a layer of this family has. Where no
    layer is complete it is the one under which the most of a layer is, for whoever looks what
    is missing.

    Raises:
        ValueError: If there is no such layer, there are several such models, or more layers than
            the settings tell; also of adapters, and of packed matrices.
    """
    names = tensor_names(checkpoint)
    family, expected = FAMILIES[config.model_type], set(empty_layer(config, 0).state_dict())
    found = _parts(names, family.stem, expected)
    most = max((len(parts) for parts in found.values()), default=0)
    if most < len(expected):
        if any(".lora_" in name for name in names):
            raise ValueError(adapter_refusal(checkpoint))
        check_not_packed(names, checkpoint)
    prefixes = sorted({prefix for prefix, layer in found if len(found[prefix, layer]) == most})
    if not prefixes:
        example = f"{family.stem}.0.{min(expected)}"
        raise ValueError(
            f"{checkpoint}: must hold layers of {config.model_type}, with tensors as {example}, "
            f"got {', '.join(sorted(names)[:2]) or 'no tensors'}. Correct model_type, or get the "
            "checkpoint of this config."
        )
    if len(prefixes) > 1:
        raise ValueError(
            f"{checkpoint}: must hold one language model, got layers of {config.model_type} below "
            f"{' and '.join(prefix or 'no name' for prefix in prefixes)}. Save the one you mean."
        )
    last = max(int(layer) for prefix, layer in found if prefix == prefixes[0])
    if last >= config.num_hidden_layers:
        raise ValueError(
            f"{checkpoint}: must have the {config.num_hidden_layers} layers of its settings, got "
            f"tensors of layer {last} too. Get config.json and weights from one place."
        )
    return prefixes[0]


def is_head(name: str) -> bool:
    """Return whether a tensor is one of the model's output."""
    return name.rpartition(".")[0].rpartition(".")[2] in HEADS


def _parts(names: Iterable[str], stem: str, expected: set[str]) -> dict[tuple[str, str], set[str]]:
    """Return which of the expected tensors each layer has, by what precedes it and its number."""
    ends = "|".join(map(re.escape, sorted(expected)))
    pattern = re.compile(rf"(|.+\.){re.escape(stem)}\.(\d+)\.({ends})")
    found: dict[tuple[str, str], set[str]] = {}
    for name in names:
        if match := pattern.fullmatch(name):
            found.setdefault((match[1], match[2]), set()).add(match[3])
    return found
