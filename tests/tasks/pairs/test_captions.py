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
        ("file,caption\na.jpg\n", r"got 1 cells in line 2\."),
        ("file,caption\na.jpg,  \t\n", r"got an empty one in line 2\."),
        ("file,caption\n\n\na.jpg,\n", r"got an empty one in line 4\."),
        ('file,caption\na.png,"one\ntwo"\n\nb.png,\n', r"got an empty one in line 5\."),
        (
            "file,caption\na.png,A harbour, at night\n",
            r"got 3 cells in line 2\. Put a caption",
        ),
        ('file,caption\na.png, "A harbour, at night"\n', r"got 3 cells in line 2\."),
        ('file,caption\na.png, "A harbour"\n', r"got a space between them in line 2\."),
        ('file,caption\na.png,"A \\"big\\" ship, sailing"\n', r"line 2 must be .* expected after"),
        ('file,caption\nb.png,x\na.png,"A" harbour\n', r"line 3 must be a file and a caption, got"),
        ('file,caption\na.png,x\nb.png,"open\nc.png,y\n', r"line 3 must be .*unexpected end of"),
        ('file,caption\na.png,"open\nb.png,"y"\n', r"line 2 must be a file and a caption, got"),
        (
            'file,caption\na.png,"' + 140_000 * "x" + "\n",
            r"line 2 must be a file and a caption, got field larger than field limit",
        ),
        ("file,caption\na.png,x\nb.png,y\na.png,z\n", r"got 'a\.png' in lines 2 and 4\. Keep one"),
        ("file,caption\nin/a.png,x\n\nin/./a.png,z\n", r"got 'in/\./a\.png' in lines 2 and 4\."),
        ("file,caption\n", r"must list image files and captions, got no line\."),
        (
            "file,caption\na.jpg,x\n../b.jpg,y\n",
            r"lie in the folder of the list, got '\.\./b\.jpg' in line 3",
        ),
        ("file,caption\nin/../../b.jpg,y\n", r"must lie in the folder of the list, got 'in/\.\."),
        ("file,caption\n/etc/hosts,x\n", r"in the folder of the list, got '/etc/hosts' in line 2"),
    ],
)
def test_a_wrong_list_is_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        captions.read(write_captions(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_quote_that_swallows_the_next_lines_is_found_by_the_file_that_it_hides(tmp_path):
    text = 'file,caption\na.png,"A harbour\nb.png,a boat\nc.png,"\nd.png,x\n'
    write_captions(tmp_path, text)
    assert captions.read(tmp_path)[0].name == "A harbour\nb.png,a boat\nc.png,"  # may be a caption
    (tmp_path / "b.png").write_bytes(b"")
    message = r"got 'b\.png' within that of line 2, 1 lines on\. Close its quote\."
    with pytest.raises(ValueError, match=message):
        captions.read(tmp_path)


def slow_records(text: str) -> list[list[str]]:
    """RFC 4180, letter by letter."""
    records, cells, cell, quoted, place = [], [], "", False, 0
    while place < len(text):
        letter = text[place]
        if quoted and text[place : place + 2] == '""':
            cell, place = cell + '"', place + 1
        elif letter == '"':
            quoted = not quoted
        elif not quoted and letter in ",\n":
            cells, cell = [*cells, cell], ""
            if letter == "\n":
                records, cells = [*records, cells], []
        else:
            cell += letter
        place += 1
    return records


def test_captions_of_every_kind_are_kept_whole(tmp_path):
    texts = ["NA", "null", 'a ""quoted"" word', "two, commas, here", "Ein Bär", "one\ntwo", "'x'"]
    lines = [f'{number}.png,"{text}"\n' for number, text in enumerate(texts)]
    text = "file,caption\n" + "".join(lines) + "last.png,  padded  \n"
    rows = captions.read(write_captions(tmp_path, text))
    assert [[row.source, row.name] for row in rows] == [
        [file, caption.strip()] for file, caption in slow_records(text)[1:]
    ]
    assert rows[2].name == 'a "quoted" word'
    assert rows[-1].name == "padded"
    crlf = captions.read(write_captions(tmp_path, text.replace("\n", "\r\n")))
    assert crlf == rows


def test_a_list_with_a_byte_order_mark_is_read(tmp_path):
    write_captions(tmp_path, "\ufefffile,caption\nin a folder/a.png,x\n")
    assert [row.source for row in captions.read(tmp_path)] == ["in a folder/a.png"]


def test_a_missing_list_says_what_to_put_where(tmp_path):
    with pytest.raises(ValueError, match=r"captions\.csv: must list image files.*WIT"):
        captions.read(tmp_path)
