"""From a run's settings to its model, its data and its transforms."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from rectify import language, rectified
from rectify.data import augment
from rectify.data.batches import Prepare
from rectify.epochs import TrainingData
from rectify.recipes import Recipe, recipe
from rectify.runtime import generator, seed_globals
from rectify.vision import create_vit

CROP = 0.875  # as in DeiT


def recipe_of(settings: dict[str, Any]) -> Recipe:
    """Return the recipe of a run: the named one with the run's changes."""
    changes = dict(settings["recipe"])
    return recipe(changes.pop("recipe", "paper"), **changes)


def model_of(settings: dict[str, Any], block: Path | None, seed: int) -> nn.Module:
    """Return the untrained model of a run; the ViT's first weights depend on the seed alone."""
    seed_globals(seed, "vit")
    vit = vit_of(settings, recipe_of(settings).drop_path)
    variant = settings["variant"]
    if variant == "vanilla":
        return vit
    if block is None:
        raise ValueError(
            f"{settings['run']}: variant {variant} must have a block, got none. Give --block."
        )
    return _with_bridge(settings, vit, block, generator(seed, "bridge"))


def vit_of(settings: dict[str, Any], drop_path: float = 0.0) -> VisionTransformer:
    """Return the plain ViT of a run, drawn from torch's global generator."""
    data, vision = settings["data"], settings["vision"]
    return create_vit(
        vision["timm"],
        num_classes=data["classes"],
        image_size=data["image_size"],
        channels=data["channels"],
        frames=data["frames"],
        drop_path=drop_path,
        overrides=vision["overrides"],
    )


def trained_of(settings: dict[str, Any], block: Path | None, seed: int, weights: Path) -> nn.Module:
    """Return the trained model of a run as it is used at test.

    Raises:
        ValueError: If the weights are damaged or belong to another model.
    """
    state = load_weights(weights)
    if settings["variant"] in ("vanilla", "auxiliary"):
        vit = vit_of(settings)
        rectified.load_trainable_state(vit, state, f"{weights}")
        return vit
    model = model_of(settings, block, seed)
    rectified.load_trainable_state(model, state, f"{weights}")
    return model


def saved_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors to publish: a plain ViT where the model has one at test."""
    if isinstance(model, rectified.InsertedViT):
        return rectified.trainable_state(model)
    return rectified.export(model)


def trunk_of(model: nn.Module) -> VisionTransformer:
    """Return the ViT inside a model."""
    return model if isinstance(model, VisionTransformer) else model.vit


def training_data(settings: dict[str, Any], images: Any, workers: int) -> TrainingData:
    """Return a training set with its augmentation, image by image first where that is needed."""
    recipe, data = recipe_of(settings), settings["data"]
    whole = {"crop": recipe.crop, "pad": recipe.pad, "flip_prob": recipe.flip}
    prepare = None
    if recipe.auto_augment is not None or recipe.crop == "resized":
        _check_rgb(settings)
        prepare = augment.per_image(
            image_size=data["image_size"],
            crop_scale=recipe.crop_scale,
            auto_augment=recipe.auto_augment,
            **whole,
        )
        whole = {"crop": "none", "pad": 0, "flip_prob": 0.0}
    last = augment.batched(**whole, erasing=recipe.random_erasing)
    return TrainingData(images.images, images.labels, data["classes"], last, prepare, workers)


def evaluation_transform(settings: dict[str, Any], shift: str = "none") -> Prepare | None:
    """Return what brings test images, or those of a shifted test set, to the model's size.

    DeiT's resize and crop; ImageNet-C's images have their size and are not cropped. None where
    images are stored as the model takes them: in an embedded set, and without resized crops.
    """
    data = settings["data"]
    if data.get("embedded", False) or recipe_of(settings).crop != "resized":
        return None
    return augment.evaluation_transform(data["image_size"], 1.0 if shift == "c" else CROP)


def workers(device: torch.device, threads: int) -> int:
    """Return the number of processes that read images: none where the model needs the threads."""
    return threads if device.type == "cuda" else 0


def load_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file.

    Raises:
        ValueError: If the file is missing, cut short or no safetensors file.
    """
    try:
        return load_file(path)
    except (SafetensorError, FileNotFoundError) as error:
        raise ValueError(
            f"{path}: must be a whole safetensors file, got {error}. Delete it and make it again."
        ) from None


def _with_bridge(
    settings: dict[str, Any], vit: VisionTransformer, path: Path, draws: torch.Generator
) -> nn.Module:
    variant, place, norm = settings["variant"], settings["insert_at"], settings["final_norm"]
    block = language.random_block(path, draws) if variant == "random" else language.read_block(path)
    if variant == "auxiliary":
        return rectified.auxiliary(vit, block, generator=draws, final_norm=norm)
    if variant in ("adapter", "mlp"):
        control = rectified.adapter if variant == "adapter" else rectified.mlp
        return control(vit, block.hidden, place, generator=draws)
    build = rectified.tuned if variant == "tuned" else rectified.insert
    return build(vit, block, place, generator=draws, final_norm=norm)


def _check_rgb(settings: dict[str, Any]) -> None:
    if settings["data"]["channels"] != 3:
        raise ValueError(
            f"{settings['run']}: RandAugment and resized crops need RGB images, got "
            f"{settings['data']['channels']} channel. Set training.auto_augment to null and "
            "training.crop to padded or none."
        )
