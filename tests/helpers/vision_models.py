"""Tiny vision models of every kind that is known as a trunk, with weights away from 0 and 1."""

from collections.abc import Callable

import timm
import torch
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    DeiTConfig,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    DINOv3ViTConfig,
    SiglipVisionConfig,
    ViTConfig,
)
from transformers.models.clip.modeling_clip import (
    CLIPConfig,
    CLIPForImageClassification,
    CLIPVisionModel,
)
from transformers.models.deit.modeling_deit import DeiTForImageClassification, DeiTModel
from transformers.models.dinov2.modeling_dinov2 import Dinov2ForImageClassification, Dinov2Model
from transformers.models.dinov2_with_registers.modeling_dinov2_with_registers import (
    Dinov2WithRegistersForImageClassification,
)
from transformers.models.dinov3_vit.modeling_dinov3_vit import DINOv3ViTModel
from transformers.models.siglip.modeling_siglip import (
    SiglipConfig,
    SiglipForImageClassification,
    SiglipVisionModel,
)
from transformers.models.vit.modeling_vit import ViTForImageClassification, ViTModel

SIZE, CLASSES, DEPTH = 32, 5, 3
SMALL = {"embed_dim": 16, "depth": DEPTH, "num_heads": 2}
SWIN = {"embed_dim": 8, "depths": (1, 2), "num_heads": (1, 2), "window_size": 2, "patch_size": 4}
TIMM = {
    "vit": ("vit_tiny_patch16_224", {}),
    "vit with a norm in front": ("vit_base_patch16_clip_224", {}),
    "mean over patches": ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg"}),
    "deit-iii": ("deit3_small_patch16_224", {}),
    "distilled": ("deit_tiny_distilled_patch16_224", {}),
    "dinov2": ("vit_small_patch14_reg4_dinov2", {"patch_size": 16}),
    "siglip": ("vit_base_patch16_siglip_224", {}),
    "eva-02": ("eva02_tiny_patch14_224", {"patch_size": 16}),
    "eva with a rotation of its own in each block": ("vit_small_patch16_rope_mixed_224", {}),
    "dinov3": ("vit_small_patch16_dinov3", {}),
    "beit": ("beit_base_patch16_224", {}),
    "beit with a shared bias": (
        "beit_base_patch16_224", {"use_shared_rel_pos_bias": True, "use_rel_pos_bias": False},
    ),
    "swin": ("swin_tiny_patch4_window7_224", SWIN),
}  # fmt: skip
"""By kind: the name in timm, and what differs from `SMALL` or stands in its place."""

WIDTHS = {
    "hidden_size": 16,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": SIZE,
    "patch_size": 16,
}
CLASSIFY = {"num_labels": CLASSES}
HUGGING_FACE: dict[str, Callable[[], nn.Module]] = {
    "ViTModel": lambda: ViTModel(ViTConfig(**WIDTHS)),
    "ViTModel without pooler": lambda: ViTModel(ViTConfig(**WIDTHS), add_pooling_layer=False),
    "ViT": lambda: ViTForImageClassification(ViTConfig(**WIDTHS, **CLASSIFY)),
    "DeiTModel": lambda: DeiTModel(DeiTConfig(**WIDTHS)),
    "DeiT": lambda: DeiTForImageClassification(DeiTConfig(**WIDTHS, **CLASSIFY)),
    "Dinov2Model": lambda: Dinov2Model(Dinov2Config(**WIDTHS)),
    "Dinov2": lambda: Dinov2ForImageClassification(Dinov2Config(**WIDTHS, **CLASSIFY)),
    "Dinov2 with registers": lambda: Dinov2WithRegistersForImageClassification(
        Dinov2WithRegistersConfig(**WIDTHS, **CLASSIFY)
    ),
    "DINOv3": lambda: DINOv3ViTModel(DINOv3ViTConfig(**WIDTHS)),
    "SiglipVisionModel": lambda: SiglipVisionModel(SiglipVisionConfig(**WIDTHS)),
    "Siglip": lambda: SiglipForImageClassification(SiglipConfig(vision_config=WIDTHS, **CLASSIFY)),
    "CLIPVisionModel": lambda: CLIPVisionModel(CLIPVisionConfig(**WIDTHS)),
    "CLIP": lambda: CLIPForImageClassification(CLIPConfig(vision_config=WIDTHS, **CLASSIFY)),
}
KINDS = (*TIMM, *HUGGING_FACE)


def timm_model(name: str, **overrides: object) -> nn.Module:
    """Return a small model of timm."""
    more = overrides if "depths" in overrides else {**SMALL, **overrides}
    return timm.create_model(name, img_size=SIZE, num_classes=CLASSES, **more)


def vision_model(kind: str, seed: int = 0) -> nn.Module:
    """Return a small model of a kind, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind in TIMM:
            name, overrides = TIMM[kind]
            model = timm_model(name, **overrides)
        else:
            model = HUGGING_FACE[kind]()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


def pictures(count: int = 3, seed: int = 0) -> Tensor:
    """Return random images of the size that these models take."""
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, SIZE, SIZE, generator=draws)
