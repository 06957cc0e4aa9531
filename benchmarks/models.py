"""What the GSNR and training benchmarks measure: ViTs at 32 pixels, a frozen LLaMA-shaped block."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.paired import Work
from rectify.language.block import Block, load_block
from rectify.rectified import insert
from rectify.trunks.vit import create_vit

CLASSES = 100
BATCH = 64
VISIONS = {"tiny": "vit_tiny_patch16_224", "small": "vit_small_patch16_224"}
SIZES = {"hidden_size": 512, "intermediate_size": 1376, "num_attention_heads": 8}  # as LLaMA's


def vision_transformer(size: str) -> VisionTransformer:
    """Return ViT-Ti or ViT-S at 32 px and patch 4: 65 tokens."""
    torch.manual_seed(0)
    overrides = {"patch_size": 4}
    return create_vit(VISIONS[size], num_classes=CLASSES, image_size=32, overrides=overrides)


def frozen_block() -> Block:
    """Return a frozen, random LLaMA block of width 512, by way of a checkpoint."""
    torch.manual_seed(0)
    transformers.utils.logging.disable_progress_bar()
    model = LlamaForCausalLM(LlamaConfig(vocab_size=8, num_hidden_layers=1, **SIZES))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load_block(Path(folder), 0)


def measured_model(case: str) -> tuple[nn.Module, nn.Module]:
    """Return a model in training mode and its blocks.

    Args:
        case: ``tiny`` or ``small``, and ``+block`` behind it for a frozen block at the end; or
            ``encoder``, the size of ViT-Ti with four of torch's own layers.
    """
    if case == "encoder":
        model = Encoder()
        return model.train(), model.blocks
    size, _, block = case.partition("+")
    vit = vision_transformer(size)
    draws = torch.Generator().manual_seed(0)
    model = insert(vit, frozen_block(), "end", generator=draws) if block else vit
    return model.train(), vit.blocks


class Encoder(nn.Module):
    """Patches of 4 pixels, four encoder layers of torch, and a class from the mean token."""

    def __init__(self, dim: int = 192) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Conv2d(3, dim, 4, 4)
        options = {"dropout": 0.0, "batch_first": True, "norm_first": True}
        self.blocks = nn.Sequential(
            *(nn.TransformerEncoderLayer(dim, 3, 4 * dim, **options) for _ in range(4))
        )
        self.head = nn.Linear(dim, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(self.embed(images).flatten(2).mT).mean(1))


def batch() -> tuple[Tensor, Tensor]:
    """Return random images and labels."""
    draws = torch.Generator().manual_seed(1)
    images = torch.randn(BATCH, 3, 32, 32, generator=draws)
    return images, torch.randint(CLASSES, (BATCH,), generator=draws)


def training_step(model: nn.Module, backward: Callable[[], object]) -> Work:
    """Return ``backward`` and AdamW, whose learning rate is 0 so that all steps are alike."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=0.0)

    def step() -> None:
        backward()
        optimizer.step()
        optimizer.zero_grad()

    return step
