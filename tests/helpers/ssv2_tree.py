"""Something-Something-v2 in miniature, a VideoMAE checkpoint for it, and settings of runs."""

import argparse
import json
import zipfile
from pathlib import Path

import numpy as np
import torch

from rectify.training.recipes import recipe
from rectify.trunks.videomae import create_videomae
from tests.helpers.films import film
from tests.helpers.training import settings_of as training_settings

CLASSES = (
    "Approaching something with your camera",
    "Moving something up",
    "Holding something next to something",
)
TEMPLATES = [name.replace("something", "[something]") for name in CLASSES]
SIZES = {"embed_dim": 24, "num_heads": 2, "depth": 2, "patch_size": 16}
ENTRY = {
    "task": "video_classification",
    "reader": "ssv2",
    "classes": 3,
    "image_size": 32,
    "frames": 4,
    "top_k": 2,
    "views": {"time": 2, "space": 3},
}
RECIPE = {"recipe": "videomae", "epochs": 2, "batch_size": 6, "warmup_epochs": 1, "lr": 0.02}


def settings_of(start: Path, variant: str = "vanilla", **training: object) -> dict:
    """Return the settings of a run that starts from a checkpoint, as ``config.json`` has them."""
    settings = training_settings(variant, data={"frames": 4}, task=ENTRY["task"])
    settings["data"] |= {"name": "ssv2", "task": ENTRY["task"], "classes": 3, "image_size": 32}
    settings["data"]["channels"] = 3
    settings["vision"] |= {"overrides": SIZES, "family": "videomae", "start": f"{start}"}
    settings["recipe"] = json.loads(recipe(**RECIPE | training).model_dump_json())
    return settings


def write_tree(folder: Path, train: int = 12, test: int = 6) -> None:
    """Write label files as they are distributed, and clips of 64 x 48 and 48 x 64 pixels."""
    (folder / "labels").mkdir(parents=True)
    numbers = {name: str(number) for number, name in enumerate(CLASSES)}
    (folder / "labels" / "labels.json").write_text(json.dumps(numbers))
    for name, first, count in (("train", 100, train), ("validation", 200, test)):
        entries = []
        for item in range(count):
            size = (64, 48) if item % 2 else (48, 64)
            path = folder / "videos" / f"{first + item}.webm"
            film(path, frames=8 + 5 * (item % 7), size=size, level=40 * (item % 3))
            entries.append({"id": f"{first + item}", "template": TEMPLATES[item % 3]})
        (folder / "labels" / f"{name}.json").write_text(json.dumps(entries))


def write_checkpoint(path: Path, image_size: int = 32, sizes: dict = SIZES) -> None:
    """Write random weights of a pretrained encoder as VideoMAE's authors do."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vit = create_videomae(
            "vit_tiny_patch16_224",
            num_classes=3,
            image_size=image_size,
            frames=4,
            overrides=sizes,
        )
    tensors = {}
    for name, tensor in vit.state_dict().items():
        if name == "patch_embed.proj.weight":
            dim, _, height, width = tensor.shape
            tensor = tensor.view(dim, 2, 3, height, width).transpose(1, 2)
        if not name.startswith(("head.", "fc_norm.")) and ".qkv." not in name:
            tensors[f"encoder.{name}"] = tensor
    for index, block in enumerate(vit.blocks):
        linears, place = block.attn.qkv, f"encoder.blocks.{index}.attn"
        weights = [linears.query.weight, linears.key.weight, linears.value.weight]
        tensors[f"{place}.qkv.weight"] = torch.cat(weights).detach()
        tensors[f"{place}.q_bias"] = linears.query.bias.detach()
        tensors[f"{place}.v_bias"] = linears.value.bias.detach()
    norms = {f"encoder.norm.{kind}": torch.ones(vit.embed_dim) for kind in ("weight", "bias")}
    save_as_videomae(tensors | norms | {"mask_token": torch.ones(1)}, path)


def save_as_videomae(tensors: dict, path: Path, key: str = "model") -> None:
    """Save as VideoMAE's authors did: with optimizer, scaler and command line, under NumPy 1."""
    rates = {"lr": np.float64(1e-3), "weight_decay": np.float64(0.05), "lr_scale": 1.0}
    moments = {"step": 9, "exp_avg": torch.ones(3), "exp_avg_sq": torch.ones(3)}
    beside = {
        "optimizer": {"state": {0: moments}, "param_groups": [rates | {"params": [0]}]},
        "epoch": 2399,
        "scaler": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 7},
        "args": argparse.Namespace(model="pretrain_videomae_small_patch16_224", lr=1e-3),
    }
    torch.save({key: tensors} | beside, path)
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, content in parts.items():
            old = content.replace(b"numpy._core.", b"numpy.core.")  # its name before NumPy 2
            file.writestr(name, old if name.endswith("/data.pkl") else content)
