"""Images with captions in tables of the Hugging Face hub: see ``rectify.tasks.tables``."""

from pathlib import Path

from rectify.tasks import tables
from rectify.tasks.readers import Row, few

EMBEDDED = IN_MEMORY = False
COMPLETE = {("pairs",): 1_024}  # of WIT, as Huh et al. (2024) chose them


def read(
    folder: Path,
    *,
    split: str | None = None,
    image: str | None = None,
    caption: str | None = None,
    number: int | None = None,
) -> list[Row]:
    """Return the pairs in the order of the table.

    Args:
        folder: Of ``save_to_disk``, or with Parquet files.
        split: Whose pairs they are, where there are several splits.
        image: Column of the images, where there are several.
        caption: Column of the captions, where there are several.
        number: Which caption of an image is taken where each has a list of them, from 0.

    Raises:
        ValueError: If there is no such table, split or column, or a caption is missing.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: must hold image-caption pairs, got no folder. Put them there.")
    splits = tables.parts(folder)
    if split is None and len(splits) == 1:
        split = next(iter(splits))
    if split not in splits:
        raise ValueError(
            f"{folder}: split must be one of {', '.join(splits)}, got {split or 'none'}. Name it "
            "in sizes."
        )
    known = tables.columns(splits[split])
    pixels = tables.chosen(folder, known, "image", (tables.IMAGE,), image)
    texts = tables.chosen(folder, known, "caption", (tables.TEXT, tables.TEXTS), caption)
    if (number is None) == (texts.kind == tables.TEXTS):
        rule = "say which of a list of captions" if number is None else "be left out: one caption"
        raise ValueError(
            f"{folder}: number must {rule} an image has in {texts.name}, got "
            f"{'none' if number is None else number}. Correct it in sizes."
        )
    found = [*tables.items(folder, splits[split], pixels.name, texts.name)]
    rows = [Row("pairs", -1, _caption(value, number), source) for source, value in found]
    if empty := [row.source for row in rows if not row.name]:
        raise ValueError(
            f"{folder}: each image must have a caption in {texts.name}, got none for {len(empty)}: "
            f"{few(empty)}. Complete the table."
        )
    return rows


def _caption(value: str | list | None, number: int | None) -> str:
    if number is not None:
        value = value[number] if value is not None and 0 <= number < len(value) else None
    return (value or "").replace("\r\n", "\n").replace("\r", "\n").strip()
