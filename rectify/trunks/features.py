"""Features of every block of a ViT for a set of images, and how features are stored.

As in Huh et al. (2024): the class token after each block, before the final norm, fp32.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn

from rectify.results.files import atomic_path
from rectify.tensors import read_safetensors
from rectify.trunks.trunk import Inputs, as_trunk

AGAIN = "Delete it and make it again."


def block_features(model: nn.Module, inputs: Inputs) -> Float[Tensor, "layers batch dim"]:
    """Return the class token after each block, before the final norm (Huh et al., 2024).

    Args:
        model: A trunk or a timm ViT, with a class token.
        inputs: A batch of its inputs.
    """
    trunk, layers = as_trunk(model), []
    tokens = trunk.embed(inputs)
    for index in range(len(trunk.blocks)):
        tokens = trunk.run(tokens, index, index + 1)
        layers.append(tokens.values[:, 0])
    return torch.stack(layers)


def vision_features(
    model: nn.Module, batches: Iterable[Inputs]
) -> Float[Tensor, "layers items dim"]:
    """Return the class token of each image after each block of a ViT.

    Args:
        model: A trunk or a timm ViT.
        batches: Its inputs, on its device.
    """
    model.eval()
    with torch.inference_mode():
        layers = [block_features(model, batch).float().cpu() for batch in batches]
    return torch.cat(layers, dim=1)


def save_features(
    layers: Float[Tensor, "layers items dim"], facts: dict[str, object], path: Path
) -> None:
    """Write features and the facts about their model to a safetensors file, atomically."""
    with atomic_path(path) as temporary:
        save_file({"layers": layers.contiguous()}, temporary, {"facts": json.dumps(facts)})


def load_features(path: Path) -> tuple[Float[Tensor, "layers items dim"], dict[str, object]]:
    """Return features and the facts about their model.

    Raises:
        ValueError: If the file is damaged or holds no features.
    """
    tensors, metadata = read_safetensors(path, AGAIN)
    if "layers" not in tensors or "facts" not in metadata:
        raise ValueError(f"{path}: must hold features and their facts, got others. {AGAIN}")
    return tensors["layers"], json.loads(metadata["facts"])


def check_same_pairs(language: Mapping[str, object], vision: Mapping[str, object]) -> None:
    """Check that features of captions and of images are of the same pairs in the same order.

    Of one's own features nobody knows it.

    Args:
        language: Facts of the captions' features, from ``rectify.trunks.own_features``.
        vision: Facts of the images' features.

    Raises:
        ValueError: If they are of different sets, or one does not say of which.
    """
    if language.get("language_own") or vision.get("vision_own"):
        return
    for key, what in (("pairs", "the same pairs"), ("pairs_sha256", "pairs of one manifest")):
        ours, theirs = language.get(key), vision.get(key)
        if ours is None or ours != theirs:
            raise ValueError(
                f"similarity: both features must be of {what}, got {ours} and {theirs}. "
                "Make both again, on one prepared set."
            )
