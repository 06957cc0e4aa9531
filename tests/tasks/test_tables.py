"""Tables of the Hugging Face hub, as labelled images and as pairs.

They are written with pyarrow alone, in the format of ``datasets``; where that package is there, its
own files are read as well.
"""

import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rectify.__main__ import main
from rectify.data import rows
from rectify.data.images import read_image, unreadable
from rectify.data.manifests import read_listing
from rectify.data.sets import load_set
from rectify.tasks import tables
from rectify.tasks.image_classification.readers import datasets as labelled
from rectify.tasks.pairs.readers import datasets as paired

LABELS = {"_type": "ClassLabel", "names": ["ant", "bee", "cow"]}
IMAGE = {"_type": "Image"}


def pixels(seed: int, size: tuple[int, int] = (6, 5)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def encoded(seed: int, **options) -> dict[str, object]:
    file = io.BytesIO()
    Image.fromarray(pixels(seed, (6 + seed % 3, 5))).save(file, "PNG", **options)
    return {"bytes": file.getvalue(), "path": f"{seed}.png"}


def table(count: int, first: int = 0, features: dict | None = None, **columns: list) -> pa.Table:
    """Return a table of images and other columns, with what ``datasets`` says of them."""
    images = [encoded(first + item) for item in range(count)]
    made = pa.table({"image": images, **columns})
    features = {"image": IMAGE, **(features or {})}
    return made.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )


def save_arrow(folder: Path, *parts: pa.Table) -> Path:
    """Write what ``Dataset.save_to_disk`` writes."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"data-{n:05}-of-{len(parts):05}.arrow" for n in range(len(parts))]
    for name, part in zip(names, parts, strict=True):
        with pa.ipc.new_stream(folder / name, part.schema) as writer:
            writer.write_table(part, max_chunksize=2)
    state = {"_data_files": [{"filename": name} for name in names], "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def save_both(folder: Path, **splits: list[pa.Table]) -> Path:
    """Write what ``DatasetDict.save_to_disk`` writes."""
    for name, parts in splits.items():
        save_arrow(folder / name, *parts)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": [*splits]}))
    return folder


def save_parquet(folder: Path, name: str, part: pa.Table) -> Path:
    path = folder / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(part, path, row_group_size=2)
    return folder


def numbered(count: int, first: int = 0) -> pa.Table:
    labels = [(first + item) % 3 for item in range(count)]
    return table(count, first, {"label": LABELS}, label=labels)


def check_pixels(folder: Path, found: list, seeds) -> None:
    for row, seed in zip(found, seeds, strict=True):
        expected = pixels(seed, (6 + seed % 3, 5))
        assert np.array_equal(np.array(read_image(folder / row.source)), expected)


def test_a_dictionary_of_splits_is_read_in_the_order_of_its_rows(tmp_path):
    save_both(tmp_path, train=[numbered(5), numbered(4, 5)], test=[numbered(3, 9)])
    found = labelled.read(tmp_path)
    assert [row.split for row in found] == ["train"] * 9 + ["test"] * 3
    assert [row.label for row in found] == [item % 3 for item in range(12)]
    assert [row.name for row in found[:3]] == ["ant", "bee", "cow"]
    assert found[6].source == "train/data-00001-of-00002.arrow#image#1"
    check_pixels(tmp_path, found, range(12))
    assert unreadable(tmp_path, [row.source for row in found], threads=2) == []


@pytest.mark.parametrize(
    "names",
    [
        ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"),
        ("data/train-0", "data/train-1", "data/validation-0"),
        ("train/0000", "train/0001", "test/0000"),
        ("cats_train_0", "cats_train_1", "cats_val"),
    ],
)
def test_parquet_files_say_their_split(tmp_path, names):
    for name, part in zip(names, (numbered(5), numbered(4, 5), numbered(3, 9)), strict=True):
        save_parquet(tmp_path, name, part)
    found = labelled.read(tmp_path)
    assert Counter(row.split for row in found) == {"train": 9, "test": 3}
    check_pixels(tmp_path, found, range(12))


@pytest.mark.parametrize("kind", ["arrow", "parquet", "train"])
def test_a_single_split_is_divided(tmp_path, kind):
    if kind == "arrow":
        save_arrow(tmp_path, numbered(30))
    else:
        save_parquet(tmp_path, "train" if kind == "train" else "everything", numbered(30))
    found = labelled.read(tmp_path)
    assert Counter((row.split, row.label) for row in found) == {
        (split, label): items for split, items in (("train", 8), ("test", 2)) for label in range(3)
    }
    assert found == labelled.read(tmp_path, seed=0, train_share=0.8)
    assert found != labelled.read(tmp_path, seed=1)
    check_pixels(tmp_path, found, [rows.place(Path(row.source))[2] for row in found])


def test_classes_without_names_are_named_by_their_values(tmp_path):
    save_parquet(tmp_path / "n", "train", table(4, label=[7, 3, 3, 7]))
    save_parquet(tmp_path / "n", "test", table(2, 4, label=[3, 7]))
    found = labelled.read(tmp_path / "n")
    assert [(row.label, row.name) for row in found[:2]] == [(1, "7"), (0, "3")]
    save_parquet(tmp_path / "t", "train", table(4, species=["wolf", "elk", "elk", "wolf"]))
    save_parquet(tmp_path / "t", "test", table(2, 4, species=["elk", "wolf"]))
    found = labelled.read(tmp_path / "t")
    assert [(row.label, row.name) for row in found[:2]] == [(1, "wolf"), (0, "elk")]


def test_a_test_without_labels_is_left_out(tmp_path):
    hidden = table(3, 9, {"label": LABELS}, label=[-1, -1, -1])
    save_both(tmp_path, train=[numbered(6)], validation=[numbered(3, 6)], test=[hidden])
    found = labelled.read(tmp_path)
    assert [row.source.split("/")[0] for row in found] == ["train"] * 6 + ["validation"] * 3


def test_columns_are_named_where_several_would_do(tmp_path):
    both = table(
        6, 0, {"fine": LABELS, "coarse": LABELS}, fine=[0, 1, 2] * 2, coarse=[0, 1, 0, 1, 0, 1]
    )
    save_arrow(tmp_path, both)
    message = r"one column of label or number or text, got fine, coarse\. Name it as label in sizes"
    with pytest.raises(ValueError, match=message) as caught:
        labelled.read(tmp_path)
    assert "columns are image (image), fine (label), coarse (label)." in str(caught.value)
    assert {row.name for row in labelled.read(tmp_path, label="coarse")} == {"ant", "bee"}
    assert {row.name for row in labelled.read(tmp_path, label="fine")} == set(LABELS["names"])
    with pytest.raises(ValueError, match="image must be a column of image, got fine"):
        labelled.read(tmp_path, image="fine", label="fine")


@pytest.mark.parametrize("save", [save_arrow, lambda folder, part: save_parquet(folder, "a", part)])
def test_pairs_have_their_captions_in_the_order_of_the_table(tmp_path, save):
    texts = ["A harbour, at night", ' "quoted" ', "one\r\ntwo", "Ein Bär"]
    save(tmp_path, table(4, text=texts))
    found = paired.read(tmp_path)
    assert [row.name for row in found] == ["A harbour, at night", '"quoted"', "one\ntwo", "Ein Bär"]
    assert {row[:2] for row in found} == {("pairs", -1)}
    check_pixels(tmp_path, found, range(4))


def test_one_of_several_captions_is_chosen_by_its_number(tmp_path):
    save_arrow(tmp_path, table(2, text=[["a", "b"], ["c", "d", "e"]], url=["x", "y"]))
    assert [row.name for row in paired.read(tmp_path, caption="text", number=1)] == ["b", "d"]
    with pytest.raises(ValueError, match=r"number must say which of a list of captions .*got none"):
        paired.read(tmp_path, caption="text")
    with pytest.raises(ValueError, match=r"number must be left out: one caption .*got 0"):
        paired.read(tmp_path, caption="url", number=0)
    with pytest.raises(ValueError, match=r"caption in text, got none for 1: data-.*#image#0\."):
        paired.read(tmp_path, caption="text", number=2)


def test_the_split_of_pairs_is_named_where_there_are_several(tmp_path):
    save_both(tmp_path, train=[table(3, text=["a", "b", "c"])], test=[table(1, 3, text=["d"])])
    assert [row.name for row in paired.read(tmp_path, split="test")] == ["d"]
    with pytest.raises(ValueError, match=r"split must be one of train, test, got none\. Name it"):
        paired.read(tmp_path)


def broken(folder: Path, how: str) -> Path:
    """Write a set that cannot be read, in one of several ways."""
    if how == "empty":
        folder.mkdir()
    elif how == "cut":
        save_arrow(folder, numbered(6))
        path = folder / "data-00000-of-00001.arrow"
        path.write_bytes(path.read_bytes()[:700])
    elif how == "cut parquet":
        path = save_parquet(folder, "a", numbered(6)) / "a.parquet"
        path.write_bytes(path.read_bytes()[:-50])
    elif how == "missing part":
        save_arrow(folder, numbered(6))
        (folder / "data-00000-of-00001.arrow").unlink()
    elif how in ("outside", "no names"):
        save_arrow(folder, numbered(6))
        entry = [{"filename": "../x.arrow"}] if how == "outside" else []
        (folder / "state.json").write_text(json.dumps({"_data_files": entry}))
    elif how == "other columns":
        save_arrow(folder, numbered(6), table(2, label=[0, 1]))
    elif how == "some splits":
        save_parquet(save_parquet(folder, "train", numbered(6)), "more", numbered(6))
    elif how == "no label":
        save_arrow(folder, table(3, 0, {"label": LABELS}, label=[0, None, 1]))
    elif how == "no image":
        save_arrow(folder, pa.table({"label": [0, 1]}))
    elif how == "unlearnt class":
        save_both(folder, train=[table(2, label=[0, 1])], test=[table(2, label=[0, 5])])
    return folder


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", "must hold the data set, got no"),
        ("empty", "must hold Parquet files or what `save_to_disk` of datasets writes, got neither"),
        ("cut", "must be an intact table, got "),
        ("cut parquet", "must be an intact table, got "),
        ("missing part", "must be an intact table, got .*No such file"),
        ("outside", r"must name the files of the table, got \['\.\./x\.arrow'\]"),
        ("no names", r"must name the files of the table, got \[\]"),
        ("other columns", r"must have the columns of data-00000-of-00002\.arrow, got others"),
        ("some splits", r"each Parquet file must say its split, got more\.parquet beside"),
        ("no label", r"must have a class in label, got none for 1: data-.*#image#1\. Complete"),
        ("no image", r"must have one column of image, got none\. Name it as image in sizes"),
        ("unlearnt class", r"must be one of the 2 in training, got '5'"),
    ],
)
def test_tables_that_cannot_be_read_are_one_line(tmp_path, how, message):
    with pytest.raises(ValueError, match=message) as caught:
        labelled.read(broken(tmp_path / "set", how))
    assert str(caught.value).startswith(f"{tmp_path / 'set'}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["arrow", "parquet"])
def test_a_row_without_a_whole_image_is_found(tmp_path, suffix):
    images = [encoded(0), {"bytes": None, "path": "a.png"}, encoded(1), None, {"bytes": b"no"}]
    images[2]["bytes"] = images[2]["bytes"][:40]
    part = pa.table(
        {"image": pa.array(images, pa.struct({"bytes": pa.binary(), "path": pa.string()}))}
    )
    if suffix == "arrow":
        save_arrow(tmp_path, part)
    else:
        save_parquet(tmp_path, "data-00000-of-00001", part)
    file = f"data-00000-of-00001.{suffix}"
    names = [rows.name(file, "image", row) for row in (0, 1, 2, 3, 4, 5, 99)]
    names += [rows.name(file, "photo", 0), rows.name(f"x.{suffix}", "image", 0)]
    assert unreadable(tmp_path, names, threads=3) == names[1:]
    with pytest.raises(ValueError, match=r"#image#99: must be an intact image, got 5 rows\."):
        read_image(tmp_path / names[6])


def test_an_orientation_is_ignored_as_in_files(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(4, exif=exif)
    save_arrow(tmp_path, pa.table({"image": [turned]}))
    found = np.array(read_image(tmp_path / "data-00000-of-00001.arrow#image#0"))
    assert np.array_equal(found, pixels(4, (7, 5)))


def test_a_name_with_a_number_sign_is_a_file(tmp_path):
    Image.fromarray(pixels(0)).save(tmp_path / "a#1.png")
    assert np.array_equal(np.array(read_image(tmp_path / "a#1.png")), pixels(0))
    assert rows.place(Path("in/train.parquet#a#b#12")) == (Path("in/train.parquet"), "a#b", 12)


def prepared(folder: Path, output: Path, **settings) -> int:
    given = {"reader": "datasets", "folder": f"{folder}"} | settings
    words = ["--data", "toy", "--settings", json.dumps(given), "--folder", f"{output}"]
    return main(["prepare-data", *words])


def test_a_prepared_set_gives_the_images_of_its_rows(tmp_path):
    save_both(tmp_path / "in", train=[numbered(9)], test=[numbered(3, 9)])
    out = tmp_path / "out"
    assert prepared(tmp_path / "in", out, classes=3, image_size=28, sizes={"label": "label"}) == 0
    images = load_set(out, "test")
    assert images.names == ["ant", "bee", "cow"]
    assert np.array_equal(np.array(images[1]), pixels(10, (7, 5)))
    assert read_listing(out)[1]["settings"]["sizes"] == {"label": "label"}


def test_prepared_pairs_with_equal_images_are_refused(tmp_path, capsys):
    first, second = table(3, text=["a", "b", "c"]), table(1, 1, text=["d"])
    save_arrow(tmp_path / "in", first, second)
    assert prepared(tmp_path / "in", tmp_path / "out", task="pairs") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert (
        "got data-00001-of-00002.arrow#image#0 equal to data-00000-of-00002.arrow#image#1" in error
    )


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"label": 3}, "sizes of datasets: label must be a name, got 3. Correct it."),
        ({"seed": "x"}, "sizes of datasets: seed must be a number, got 'x'. Correct it."),
        ({"lable": "x"}, "got lable. Did you mean label?"),
    ],
)
def test_sizes_of_another_type_are_one_line(tmp_path, capsys, sizes, message):
    save_arrow(tmp_path / "in", numbered(9))
    assert prepared(tmp_path / "in", tmp_path / "out", classes=3, image_size=28, sizes=sizes) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_columns_are_known_by_their_types_alone(tmp_path):
    plain = pa.table({
        "picture": [encoded(0)["bytes"]], "n": [1], "words": ["x"], "lists": [["x"]], "f": [0.5],
        "points": [[1]],
    })  # fmt: skip
    save_arrow(tmp_path, plain)
    assert [tuple(one)[:2] for one in tables.columns([tmp_path / "data-00000-of-00001.arrow"])] == [
        ("picture", "image"), ("n", "number"), ("words", "text"), ("lists", "texts"), ("f", None),
        ("points", None),
    ]  # fmt: skip


def test_what_the_library_writes_is_what_is_read(tmp_path):
    """The other way to the same rows, where the package is installed (the lock has it)."""
    library = pytest.importorskip("datasets")
    features = library.Features(
        image=library.Image(), label=library.ClassLabel(names=LABELS["names"])
    )
    splits = library.DatasetDict({
        name: library.Dataset.from_dict(
            {
                "image": [Image.fromarray(pixels(seed, (6 + seed % 3, 5))) for seed in seeds],
                "label": [seed % 3 for seed in seeds],
            },
            features=features,
        )
        for name, seeds in (("train", range(9)), ("test", range(9, 12)))
    })  # fmt: skip
    splits.save_to_disk(tmp_path / "disk", num_shards={"train": 2, "test": 1})
    for name, split in splits.items():
        split.to_parquet(f"{tmp_path}/parquet/{name}-00000-of-00001.parquet")
    for kind in ("disk", "parquet"):
        found = labelled.read(tmp_path / kind)
        whole = [*splits["train"], *splits["test"]]
        assert [row.label for row in found] == [item["label"] for item in whole]
        for row, item in zip(found, whole, strict=True):
            image = read_image(tmp_path / kind / row.source)
            assert np.array_equal(np.array(image), np.array(item["image"]))
