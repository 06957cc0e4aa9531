"""VQAv2's files from questions about drawn scenes, and small checkpoints of CLIP and RoBERTa."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel, RobertaConfig, RobertaForMaskedLM

from rectify.data.questions import Asked
from rectify.tasks.visual_question_answering.readers.vqav2 import SPLITS


def write(folder: Path, drawn: Mapping[str, Asked]) -> Path:
    """Write the four JSON files and the images, with fields that no reader needs.

    An image's number is 7 times its place, and an annotation stands where its question does not.
    """
    for split, place in SPLITS.items():
        asked = drawn[split]
        (folder / place).mkdir(parents=True)
        for number, image in enumerate(asked.images):
            path = folder / place / f"COCO_{place}_{7 * number:012}.jpg"
            Image.fromarray(image[0].numpy()).convert("RGB").save(path, quality=95)
        questions = [
            {"image_id": 7 * one.picture, "question": one.text, "question_id": one.number}
            for one in asked.questions
        ]
        annotations = [
            {
                "question_type": one.text.partition(" ")[0],
                "multiple_choice_answer": one.most,
                "answers": [
                    {"answer": answer, "answer_confidence": "yes", "answer_id": number + 1}
                    for number, answer in enumerate(one.said)
                ],
                "image_id": 7 * one.picture,
                "answer_type": one.kind,
                "question_id": one.number,
            }
            for one in reversed(asked.questions)
        ]
        about = {"info": {"version": "2.0"}, "data_type": "mscoco", "data_subtype": place}
        for name, content in (
            (f"v2_OpenEnded_mscoco_{place}_questions.json", {"questions": questions}),
            (f"v2_mscoco_{place}_annotations.json", {"annotations": annotations}),
        ):
            (folder / name).write_text(json.dumps({**about, **content}))
    return folder


def write_starts(folder: Path, *, image_size: int, patch_size: int, words: int) -> Path:
    """Write ``clip`` and ``roberta`` as the hub has them: width 16, one block more than is used."""
    torch.manual_seed(3)
    vision = {
        "hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": image_size, "patch_size": patch_size,
    }  # fmt: skip
    text = {**vision, "vocab_size": 20, "max_position_embeddings": 8}
    del text["image_size"], text["patch_size"]
    clip = CLIPConfig(vision_config=vision, text_config=text, projection_dim=8)
    CLIPModel(clip).save_pretrained(folder / "clip")
    roberta = RobertaConfig(
        vocab_size=words, hidden_size=16, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=32, type_vocab_size=1, layer_norm_eps=1e-5,
    )  # fmt: skip
    RobertaForMaskedLM(roberta).save_pretrained(folder / "roberta")
    return folder


SIZES = {
    "dim": 16, "depth": 2, "heads": 2, "patch_size": 28, "image_dim": 16, "image_depth": 1,
    "image_heads": 2, "text_dim": 16, "text_depth": 1, "text_heads": 2, "positions": 32,
}  # fmt: skip
"""Overrides of a METER that starts from these checkpoints."""
