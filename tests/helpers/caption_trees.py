"""Karpathy's files of Flickr30k and COCO from drawn captions."""

import json
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from rectify.data.captioned import Captioned

FILES = {"flickr30k": "dataset_flickr30k.json", "coco_captions": "dataset_coco.json"}
REST = {"flickr30k": "val", "coco_captions": "restval"}
"""The split that is trained on besides train."""


def write(folder: Path, reader: str, drawn: Mapping[str, Captioned]) -> Path:
    """Write the JSON file and the images, with fields that no reader needs.

    The last three training images are in the other split that is trained on, test images stand
    in front of all others, and a split that nobody takes has an image without a file.
    """
    entries = []
    for split in ("test", "train"):
        one = drawn[split]
        for number, own in enumerate(one.captions):
            rest = split == "train" and number >= len(one.pictures) - 3
            entries.append(_entry(len(entries), reader, REST[reader] if rest else split, own))
            path = folder / place_of(reader, entries[-1])
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(one.images[number][0].numpy()).convert("RGB")
            picture.save(path, quality=95)
    unused = "restval" if reader == "flickr30k" else "val"
    entries.append(_entry(len(entries), reader, unused, ["in nobody's split"]))
    content = {"images": entries, "dataset": reader}
    (folder / FILES[reader]).write_text(json.dumps(content))
    return folder


def place_of(reader: str, entry: Mapping[str, object]) -> str:
    """Return where the image of an entry is, in the folder of the set."""
    return f"{entry.get('filepath', 'flickr30k-images')}/{entry['filename']}"


def _entry(number: int, reader: str, split: str, captions: list[str]) -> dict[str, object]:
    sentences = [
        {"tokens": text.split(), "raw": text, "imgid": number, "sentid": 5 * number + place}
        for place, text in enumerate(captions)
    ]
    ids = [one["sentid"] for one in sentences]
    entry = {"sentids": ids, "imgid": number, "sentences": sentences, "split": split}
    if reader == "flickr30k":
        return {**entry, "filename": f"{1000 + 7 * number}.jpg"}
    place = "val2014" if number % 2 else "train2014"
    name = f"COCO_{place}_{7 * number:012}.jpg"
    return {**entry, "filepath": place, "filename": name, "cocoid": 7 * number}
