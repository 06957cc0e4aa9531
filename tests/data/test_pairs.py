"""Captions belong to their images, in one fixed order."""

import unicodedata

import pytest
import torch

from rectify.data import pairs
from rectify.data.fonts import FACES, MODERN, draw
from rectify.data.glyphs import digits
from rectify.data.images import load_set, save_sets
from rectify.provenance import provenance


@pytest.fixture(scope="module")
def drawn():
    return pairs.pairs(image_size=28, seed=0)["pairs"]


def test_there_are_1024_pairs_of_distinct_characters_and_pictures(drawn):
    assert len(drawn) == len(set(drawn.captions)) == 1024
    assert len({image.numpy().tobytes() for image in drawn.images}) == 1024
    assert drawn.images.shape == (1024, 1, 28, 28)
    assert drawn.labels.unique().tolist() == [-1]


def test_each_caption_names_the_character_of_its_image(drawn):
    for image, caption in zip(drawn.images[:100], drawn.captions[:100], strict=True):
        assert caption == caption.lower()
        character = unicodedata.lookup(caption.upper())
        assert torch.equal(image[0], torch.tensor(draw(character, FACES[0], 28)))


def test_every_image_shows_something_large(drawn):
    assert (drawn.images.amax((1, 2, 3)) > 100).all()


def test_the_order_depends_on_the_seed_alone(drawn):
    assert pairs.pairs(seed=1, items=10)["pairs"].captions != drawn.captions[:10]
    assert pairs.pairs(seed=0, items=10)["pairs"].captions == drawn.captions[:10]


def test_more_pairs_than_characters_are_refused(monkeypatch):
    monkeypatch.setattr(pairs, "FACE", MODERN[0])
    message = r"^pairs: items must not exceed the 62 characters of Computer Modern roman, got 63\."
    assert len(pairs.pairs(items=62)["pairs"]) == 62
    with pytest.raises(ValueError, match=message):
        pairs.pairs(items=63)


def test_captions_are_read_back_in_the_order_of_the_images(tmp_path, drawn):
    save_sets(tmp_path, {"pairs": drawn}, provenance(0))
    assert pairs.captions(tmp_path) == list(drawn.captions)
    loaded = load_set(tmp_path, "pairs")
    assert loaded.captions == drawn.captions
    assert torch.equal(loaded.images, drawn.images)


def test_a_set_without_pairs_has_no_captions(tmp_path):
    save_sets(tmp_path, digits(image_size=8), provenance(0))
    with pytest.raises(
        ValueError, match=r"must hold image-caption pairs, got splits train, test\."
    ):
        pairs.captions(tmp_path)


def test_the_corpus_has_every_caption_once_and_no_counted_names(drawn):
    corpus = pairs.names_corpus()
    assert len(corpus) == len(set(corpus)) > 10_000
    assert set(drawn.captions) <= set(corpus)
    assert not [name for name in corpus if "cjk unified" in name or "hangul syllable" in name]
    assert {character for name in corpus for character in name} <= set(
        "abcdefghijklmnopqrstuvwxyz0123456789- "
    )
    assert corpus == pairs.names_corpus()


def write_captions(folder, text: str):
    (folder / "captions.csv").write_text(text, encoding="utf-8")
    return folder


def test_a_list_of_files_and_captions_becomes_a_manifest_in_its_order(tmp_path):
    write_captions(tmp_path, 'file,caption\nb 2.jpg,"A harbour, at night"\na.png,Ein Bär\n')
    listing = pairs.caption_files(tmp_path)
    assert listing["source"].tolist() == ["b 2.jpg", "a.png"]
    assert listing["name"].tolist() == ["A harbour, at night", "Ein Bär"]
    assert listing["label"].tolist() == [-1, -1]
    assert set(listing["split"]) == {"pairs"}


def test_lines_of_a_caption_may_end_as_they_like(tmp_path):
    write_captions(tmp_path, 'file,caption\na.png,"one\rtwo\r\nthree\nfour"\n')
    assert pairs.caption_files(tmp_path)["name"].tolist() == ["one\ntwo\nthree\nfour"]


def test_a_list_in_another_encoding_is_refused_by_name(tmp_path):
    (tmp_path / "captions.csv").write_bytes("file,caption\na.png,é\n".encode("latin-1"))
    with pytest.raises(
        ValueError, match=r"captions\.csv: must be UTF-8, got .*\. Save it as UTF-8"
    ):
        pairs.caption_files(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,text\na,b\n", r"columns must be file, caption, got 'image', 'text'\."),
        ("", r"columns must be file, caption, got none\."),
        ("file,caption\na.jpg,x\nb.jpg,\n", r"got an empty one in line 3\."),
        ("file,caption\na.jpg\n", r"got an empty one in line 2\."),
        ("file,caption\n", r"must list image files and captions, got no line\."),
        (
            "file,caption\na.jpg,x\n../b.jpg,y\n",
            r"lie in the folder of the list, got '\.\./b\.jpg'",
        ),
        ("file,caption\nin/../../b.jpg,y\n", r"must lie in the folder of the list, got 'in/\.\."),
        ("file,caption\n/etc/hosts,x\n", r"lie in the folder of the list, got '/etc/hosts'\."),
    ],
)
def test_a_wrong_list_is_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        pairs.caption_files(write_captions(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_list_with_a_byte_order_mark_is_read(tmp_path):
    write_captions(tmp_path, "\ufefffile,caption\nin a folder/a.png,x\n")
    assert pairs.caption_files(tmp_path)["source"].tolist() == ["in a folder/a.png"]


def test_a_missing_list_says_what_to_put_where(tmp_path):
    with pytest.raises(ValueError, match=r"captions\.csv: must list image files.*WIT"):
        pairs.caption_files(tmp_path)
