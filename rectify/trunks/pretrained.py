"""Published weights of timm's vision models: every tensor but the head's comes from the file.

timm itself loads what a file has and draws the rest. Here the file must hold each tensor of the
model in its shape, and besides it only the head's and what the model computes by itself.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path

import timm
from huggingface_hub import try_to_load_from_cache
from timm.models import PretrainedCfg, get_pretrained_cfg
from torch import nn

from rectify.tensors import check_same_tensors, mapped_tensors
from rectify.trunks.vit import check_name, create_vit

TAG = "augreg_in21k"  # of names without a tag, as in Huh et al. (2024)
WEIGHTS = "model.safetensors"
ADVICE = "Get the weights of this name and tag in timm's format."


def tagged(name: str) -> str:
    """Return a timm name with the tag of its published weights: its own, else ``TAG``.

    Raises:
        ValueError: If timm does not know the model, or no weights of it with that tag.
    """
    check_name(name)
    architecture, _, tag = name.partition(".")
    known = timm.list_pretrained(f"{architecture}.*")
    published = f"{architecture}.{tag or TAG}"
    if published in known:
        return published
    near = difflib.get_close_matches(published, known, 3)
    raise ValueError(
        f"vision: the model must have a tag of weights that timm knows, got {published!r}. "
        f"Near names: {', '.join(near or known) or '-'}."
    )


def pretrained(
    name: str, weights: Path | None = None, overrides: Mapping[str, object] | None = None
) -> nn.Module:
    """Return a model of timm with published weights and without a head, at its own image size.

    Args:
        name: Its name in timm, with or without a tag.
        weights: File of weights, or folder that holds ``model.safetensors``; if None, what the
            hub's cache on this machine has.
        overrides: Further timm arguments.

    Raises:
        ValueError: If timm does not know the name or the tag, the weights are not there or
            damaged, or a tensor is missing, surplus or of another shape.
    """
    published = tagged(name)
    settings = get_pretrained_cfg(published)
    size = settings.input_size[-1]
    model = create_vit(published, num_classes=0, image_size=size, overrides=overrides)
    file = weights_file(published, settings, weights)
    own = model.state_dict()
    computed = {name for name, _ in model.named_buffers()} - own.keys()
    tensors = {
        key: tensor
        for key, tensor in mapped_tensors(file).items()
        if key not in computed and not key.startswith(_heads(settings))
    }
    check_same_tensors(own, tensors, file, ADVICE)
    model.load_state_dict(tensors, strict=True)
    return model


def weights_file(name: str, settings: PretrainedCfg, weights: Path | None) -> Path:
    """Return the file of published weights: arguments as for ``pretrained``.

    Raises:
        ValueError: If there is none.
    """
    if weights is None:
        where = {"filename": settings.hf_hub_filename or WEIGHTS}
        cached = settings.hf_hub_id and try_to_load_from_cache(settings.hf_hub_id, **where)
        if not isinstance(cached, str):
            raise ValueError(
                f"vision: timm's weights of {name} must be in the hub's cache or in the folder "
                "`weights` of the vision, got neither. Name the folder, with `hub` to fetch it."
            )
        return Path(cached)
    file = weights / WEIGHTS if weights.is_dir() or not weights.suffix else weights
    if not file.is_file():
        raise ValueError(
            f"{file}: timm's weights of {name} must be here, got no file. Run `snakemake fetch` "
            "where there is a network."
        )
    return file


def _heads(settings: PretrainedCfg) -> tuple[str, ...]:
    """Return what the names of a classifier's tensors begin with."""
    names = settings.classifier or ()
    return tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))
