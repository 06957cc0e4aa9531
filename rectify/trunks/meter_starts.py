"""Where METER's training starts: the hub's folders of CLIP and of RoBERTa, under our names.

Nothing is passed over in silence: a folder's tensors are those of the model, but for the text half
of CLIP, its last image blocks, and RoBERTa's head for masked words.
"""

import re
from pathlib import Path

import torch

from rectify.language.files import read_tensors
from rectify.language.hugging_face_format import weight_files
from rectify.tensors import Tensors, check_same_tensors
from rectify.trunks.meter import Meter

CLIP, ROBERTA = "clip", "roberta"
CLIP_TENSORS = re.compile(r"^vision_model\.(.*?(?<!position_ids))$")
"""The image half of a folder of ``CLIPModel``; ``position_ids`` is a count, not a weight."""
ROBERTA_TENSORS = re.compile(r"^(?:roberta\.)(?!pooler\.)(.*?(?<!position_ids))$")
"""RoBERTa without ``lm_head`` and pooler, of a folder of ``RobertaForMaskedLM``."""
CLIP_NAMES = (
    (r"^embeddings\.class_embedding$", "cls_token"),
    (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
    (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"^pre_layrnorm\.", "norm_pre."),
    (r"^post_layernorm\.", "norm."),
    (r"^encoder\.layers\.", "blocks."),
    (r"\.layer_norm", ".norm"),
    (r"\.self_attn\.out_proj\.", ".attn.proj."),
)
"""From the names of transformers to timm's."""
ADVICE = "Get the checkpoint again, or take away the overrides of its sizes."


def start_files(start: Path) -> list[Path]:
    """Return the files of weights in the folders ``clip`` and ``roberta`` of a start.

    Raises:
        ValueError: If one has no weights.
    """
    return [file for part in (CLIP, ROBERTA) for file in weight_files(start / part)]


def load_start(trunk: Meter, start: Path) -> None:
    """Load CLIP's image half and RoBERTa, from the folders ``clip`` and ``roberta`` of a start.

    Raises:
        ValueError: As ``load_clip``.
    """
    load_clip(trunk, start / CLIP)
    load_roberta(trunk, start / ROBERTA)


def load_clip(trunk: Meter, checkpoint: Path) -> None:
    """Load the image half of CLIP ViT-B/32 into ``trunk``, but for its last blocks.

    Args:
        trunk: Its ``image`` has the sizes of the checkpoint, and fewer blocks.
        checkpoint: Folder of ``CLIPModel`` in Hugging Face's format.

    Raises:
        ValueError: If a file is missing or damaged, or a tensor is missing, surplus or of another
            shape; names the first.
    """
    tensors = clip_tensors(read_tensors(checkpoint, CLIP_TENSORS))
    depth = len(trunk.image.blocks)
    kept = {name: w for name, w in tensors.items() if not _is_behind(name, depth)}
    check_same_tensors(trunk.image.state_dict(), kept, checkpoint, ADVICE)
    trunk.image.load_state_dict(kept, strict=True)


def load_roberta(trunk: Meter, checkpoint: Path) -> None:
    """Load RoBERTa into ``trunk``.

    Args:
        trunk: Its ``text`` has the sizes of the checkpoint.
        checkpoint: Folder of ``RobertaForMaskedLM`` in Hugging Face's format.

    Raises:
        ValueError: As ``load_clip``.
    """
    tensors = read_tensors(checkpoint, ROBERTA_TENSORS)
    check_same_tensors(trunk.text.state_dict(), tensors, checkpoint, ADVICE)
    trunk.text.load_state_dict(tensors, strict=True)


def clip_tensors(tensors: Tensors) -> Tensors:
    """Return the tensors of transformers' image half under timm's names and in timm's shapes."""
    renamed: Tensors = {}
    for name, tensor in tensors.items():
        for pattern, replacement in CLIP_NAMES:
            name = re.sub(pattern, replacement, name)
        lead = {"cls_token": 2, "pos_embed": 1}.get(name, 0)
        renamed[name] = tensor[(None,) * lead]
    for name in [name for name in renamed if ".self_attn.q_proj." in name]:
        parts = [renamed.pop(name.replace("q_proj", f"{one}_proj"), None) for one in "qkv"]
        if all(part is not None for part in parts):
            renamed[name.replace("self_attn.q_proj", "attn.qkv")] = torch.cat(parts)
    return renamed


def _is_behind(name: str, depth: int) -> bool:
    """Return whether a tensor is of a block that METER leaves out."""
    block = re.match(r"blocks\.(\d+)\.", name)
    return block is not None and int(block[1]) >= depth
