"""A folder of images with a list of their captions."""

import pytest

from rectify.tasks.pairs.readers import captions


def write_captions(folder, text: str):
    (folder / "captions.csv").write_text(text, encoding="utf-8")
    return folder


def test_a_list_of_files_and_captions_becomes_a_manifest_in_its_order(tmp_path):
    write_captions(tmp_path, 'file,caption\nb 2.jpg,"A harbour, at night"\na.png,Ein Bär\n')
    assert captions.read(tmp_path) == [
        ("pairs", -1, "A harbour, at night", "b 2.jpg"),
        ("pairs", -1, "Ein Bär", "a.png"),
    ]


def test_lines_of_a_caption_may_end_as_they_like(tmp_path):
    write_captions(tmp_path, 'file,caption\na.png,"one\rtwo\r\nthree\nfour"\n')
    assert [row.name for row in captions.read(tmp_path)] == ["one\ntwo\nthree\nfour"]


def test_a_list_in_another_encoding_is_refused_by_name(tmp_path):
    (tmp_path / "captions.csv").write_bytes("file,caption\na.png,é\n".encode("latin-1"))
    with pytest.raises(
        ValueError, match=r"captions\.csv: must be UTF-8, got .*\. Save it as UTF-8"
    ):
        captions.read(tmp_path)


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
        captions.read(write_captions(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_list_with_a_byte_order_mark_is_read(tmp_path):
    write_captions(tmp_path, "\ufefffile,caption\nin a folder/a.png,x\n")
    assert [row.source for row in captions.read(tmp_path)] == ["in a folder/a.png"]


def test_a_missing_list_says_what_to_put_where(tmp_path):
    with pytest.raises(ValueError, match=r"captions\.csv: must list image files.*WIT"):
        captions.read(tmp_path)
