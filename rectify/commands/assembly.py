"""From a run's settings to its model, its data and its transforms."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from rectify import language, rectified, videomae
from rectify.data import augment, clip_augment
from rectify.data.batches import Prepare
from rectify.data.clips import Clips
from rectify.data.images import FileSet, ImageSet, label_order
from rectify.epochs import TrainingData
from rectify.recipes import Recipe, recipe
from rectify.runtime import generator, own_threads, seed_globals
from rectify.vision import create_vit

CROP = 0.875  # as in DeiT
FACTS = "facts"  # key of what a model's file says about itself, as JSON
ONE_VIEW = {"time": 1, "space": 1}


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
    create = videomae.create_videomae if vision.get("family") == "videomae" else create_vit
    return create(
        vision["timm"],
        num_classes=data["classes"],
        image_size=data["image_size"],
        channels=data["channels"],
        frames=data["frames"],
        drop_path=drop_path,
        overrides=vision["overrides"],
    )


def start(settings: dict[str, Any], model: nn.Module) -> None:
    """Give an untrained model what its training starts from: a checkpoint, a smaller head.

    Raises:
        ValueError: If the checkpoint is damaged or of another model.
    """
    vit, file = trunk_of(model), start_file(settings)
    if file is not None:
        videomae.load_start(vit, file)
    with torch.no_grad():
        for parameter in vit.head.parameters():
            parameter.mul_(recipe_of(settings).head_scale)


def start_file(settings: dict[str, Any]) -> Path | None:
    """Return the file of tensors that a run's training starts from, if there is one."""
    checkpoint = settings["vision"].get("start")
    return None if checkpoint is None else videomae.start_file(Path(checkpoint))


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


def check_labels(weights: Path, data: Path) -> None:
    """Check that a model learnt the classes in the order that a prepared set has them.

    Raises:
        ValueError: If the set numbers its classes in another way, or the weights don't say.
    """
    with safe_open(weights, framework="pt") as file:
        learnt = json.loads((file.metadata() or {}).get(FACTS, "{}")).get("label_order")
    found = label_order(data)
    if learnt != found:
        raise ValueError(
            f"{weights}: must have learnt the classes in the order of {data}, {found[:12]}, got "
            f"{(learnt or 'none')[:12]}. Train the run again on this preparation of the set."
        )


def saved_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors to publish: a plain ViT where the model has one at test."""
    if isinstance(model, rectified.InsertedViT):
        return rectified.trainable_state(model)
    return rectified.export(model)


def trunk_of(model: nn.Module) -> VisionTransformer:
    """Return the ViT inside a model."""
    return model if isinstance(model, VisionTransformer) else model.vit


def of_clips(settings: dict[str, Any]) -> bool:
    """Say whether the images of a run's set are clips in files."""
    return settings["data"].get("reader") == "ssv2"


def images_of(settings: dict[str, Any], items: ImageSet | FileSet, views: int | None) -> Any:
    """Return what a ``Reader`` reads from.

    Args:
        settings: Of the run.
        items: One split.
        views: Of a clip in time, at test; None for training, where frames are drawn.
    """
    if of_clips(settings):
        return Clips(items, settings["data"]["frames"], views)
    return items.images


def training_data(
    settings: dict[str, Any], items: ImageSet | FileSet, workers: int
) -> TrainingData:
    """Return a training set with its augmentation, item by item first where that is needed."""
    recipe = recipe_of(settings)
    whole = {"crop": recipe.crop, "pad": recipe.pad, "flip_prob": recipe.flip}
    prepare = None
    if of_clips(settings) or recipe.auto_augment is not None or recipe.crop == "resized":
        prepare = _training_transform(settings, recipe)
        whole = {"crop": "none", "pad": 0, "flip_prob": 0.0}
    last = augment.batched(**whole, erasing=recipe.random_erasing)
    stored, classes = images_of(settings, items, None), settings["data"]["classes"]
    return TrainingData(stored, items.labels, classes, last, prepare, workers)


def evaluation_transform(
    settings: dict[str, Any], shift: str = "none", views: dict[str, int] = ONE_VIEW
) -> tuple[Prepare | None, Callable[[Tensor], Tensor]]:
    """Return what brings a test item to the model's size, and from batches to the model's input.

    Images get DeiT's resize and crop; ImageNet-C's have their size and are not cropped. There is
    nothing to prepare where images are stored as the model takes them: in an embedded set, and
    without resized crops. A clip becomes its views.
    """
    data = settings["data"]
    if of_clips(settings):
        crops = clip_augment.EvaluationClip(data["image_size"], data["frames"], views["space"])
        return crops, clip_augment.normalise_views
    if data.get("embedded", False) or recipe_of(settings).crop != "resized":
        return None, augment.normalise
    prepare = augment.evaluation_transform(data["image_size"], 1.0 if shift == "c" else CROP)
    return prepare, augment.normalise


def workers(device: torch.device, threads: int) -> int:
    """Return the number of processes that read items: none where the model needs the threads."""
    return own_threads(threads) if device.type == "cuda" else 0


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


def _training_transform(settings: dict[str, Any], recipe: Recipe) -> Prepare:
    values = {
        "image_size": settings["data"]["image_size"],
        "crop_scale": recipe.crop_scale,
        "flip_prob": recipe.flip,
        "auto_augment": recipe.auto_augment,
    }
    if not of_clips(settings):
        _check_rgb(settings)
        return augment.per_image(**values, crop=recipe.crop, pad=recipe.pad)
    if recipe.crop != "resized":
        raise ValueError(
            f"{settings['run']}: clips in files need resized crops, got {recipe.crop}. "
            "Set training.crop to resized."
        )
    return clip_augment.TrainingClip(**values)


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
