"""Features of every block of a vision model for a set of images, and how features are stored.

What the model classifies by is its feature of an image, after each block: the class token before
the final norm, as in Huh et al. (2024); of a model that pools, its mean over patches or its
attention pooling. In fp32.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn

from rectify.language.weights import sha256
from rectify.results.files import atomic_path
from rectify.tensors import read_safetensors
from rectify.trunks.kinds import as_trunk
from rectify.trunks.trunk import Inputs

AGAIN = "Name another file, or delete it and make it again."


def block_features(model: nn.Module, inputs: Inputs) -> Float[Tensor, "layers batch dim"]:
    """Return what a model classifies by after each of its blocks: ``representation`` of a trunk.

    Args:
        model: A trunk, or a model that ``as_trunk`` knows.
        inputs: A batch of its inputs.

    Raises:
        ValueError: If the trunk does not say what it classifies by.
    """
    trunk, layers = as_trunk(model), []
    if not hasattr(trunk, "representation"):
        raise ValueError(
            f"features: a trunk must have representation, got {type(trunk).__name__} without. "
            "Give it one: what it would judge by if the tokens had left its last block."
        )
    tokens = trunk.embed(inputs)
    for index in range(len(trunk.blocks)):
        tokens = trunk.run(tokens, index, index + 1)
        layers.append(trunk.representation(tokens))
    return torch.stack(layers)


def vision_features(
    model: nn.Module, batches: Iterable[Inputs]
) -> Float[Tensor, "layers items dim"]:
    """Return what a model classifies each image by, after each of its blocks.

    Args:
        model: A trunk, or a model that ``as_trunk`` knows.
        batches: Its inputs, on its device.

    Raises:
        ValueError: If the trunk does not say what it classifies by.
    """
    model.eval()
    with torch.inference_mode():
        layers = [block_features(model, batch).float().cpu() for batch in batches]
    return torch.cat(layers, dim=1)


def model_facts(model: nn.Module) -> dict[str, object]:
    """Return what identifies a model of images among the facts of its features."""
    return {
        "vision_parameters": sum(weight.numel() for weight in model.parameters()),
        "vision_sha256": sha256(model.state_dict()),
    }


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
