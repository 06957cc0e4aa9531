"""Features of every block of a ViT for a set of images, and how features are stored.

As in Huh et al. (2024): the class token after each block, before the final norm, fp32.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from rectify.data.batches import Prepare, Reader
from rectify.records import atomic_path
from rectify.vision import block_features


def vision_features(
    vit: VisionTransformer,
    images: Any,
    *,
    transform: Callable[[Tensor], Tensor],
    batch_size: int,
    device: torch.device,
    prepare: Prepare | None = None,
    workers: int = 0,
) -> Float[Tensor, "layers items dim"]:
    """Return the class token of each image after each block of ``vit``.

    Args:
        vit: Lies on the device.
        images: Indexed by an item number, or by a tensor of them if there is no ``prepare``.
        transform: From a batch on the device to the model's input.
        batch_size: Images at a time.
        device: Where the model lies.
        prepare: From one image to the model's size, where the images are read.
        workers: Processes that read and prepare images ahead.
    """
    vit.eval()
    batches = Reader(images, prepare, workers, device).read(torch.arange(len(images)), batch_size)
    with torch.inference_mode():
        parts = [block_features(vit, transform(batch)).float().cpu() for batch in batches]
    return torch.cat(parts, dim=1)


def save_features(
    layers: Float[Tensor, "layers items dim"], facts: dict[str, Any], path: Path
) -> None:
    """Write features and the facts about their model to a safetensors file, atomically."""
    with atomic_path(path) as temporary:
        save_file({"layers": layers.contiguous()}, temporary, {"facts": json.dumps(facts)})


def load_features(path: Path) -> tuple[Float[Tensor, "layers items dim"], dict[str, Any]]:
    """Return features and the facts about their model.

    Raises:
        ValueError: If the file is damaged or holds no features.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor("layers"), json.loads(file.metadata()["facts"])
    except (SafetensorError, KeyError, TypeError, FileNotFoundError) as error:
        raise ValueError(
            f"{path}: must be a whole features file, got {error}. Delete it and make it again."
        ) from None
