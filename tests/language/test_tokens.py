"""Tokens of captions: those of the file, whatever class of tokenizer the settings name."""

import json
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer
from transformers import AutoTokenizer

from rectify.cluster.doctor import present
from rectify.language import load_block
from rectify.language.captions import caption_features
from rectify.language.tokens import tokenized
from rectify.results.files import POINTER
from tests.helpers.tiny_checkpoints import FAMILIES, error_of, made_checkpoint

TEXTS = ["In 2024, a BIG bird's  nest", " two cats\tand\na DOG", "12345 red", "naïve ﬁne ½"]


def byte_level(*before: pre_tokenizers.PreTokenizer, prefix: bool = False) -> Tokenizer:
    """Return a tokenizer of bytes whose texts are split by other rules before."""
    tokenizer = Tokenizer(models.BPE())
    rest = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=not before)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*before, rest])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def by_pattern(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def with_pieces() -> Tokenizer:
    """LLaMA's kind: spaces are pieces of text, none is put before the first word."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    return tokenizer


def small_letters() -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.Lowercase()
    return tokenizer


KINDS = {  # of what, family of the model, class that tokenizer_config.json names
    "single digits, as SmolLM": (
        lambda: byte_level(
            pre_tokenizers.Digits(individual_digits=True), byte_level().pre_tokenizer
        ),
        *("llama", "GPT2Tokenizer"),
    ),
    "single digits of a GPT-2": (
        lambda: byte_level(pre_tokenizers.Digits(individual_digits=True)),
        *("gpt2", "GPT2Tokenizer"),
    ),
    "a pattern of its own, as Dolma's": (
        lambda: byte_level(by_pattern(r"\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+")),
        *("llama", "GPT2Tokenizer"),
    ),
    "groups of three digits": (
        lambda: byte_level(by_pattern(r" ?\p{L}+|\p{N}{1,3}|[^\p{L}\p{N}]+")),
        *("qwen2", "Qwen2Tokenizer"),
    ),
    "small letters": (small_letters, "opt", "GPT2Tokenizer"),
    "pieces without a space before the first": (with_pieces, "llama", "LlamaTokenizer"),
    "a space before the first word": (lambda: byte_level(prefix=True), "gpt2", "GPT2Tokenizer"),
}


def checkpoint_of(folder: Path, kind: str) -> Path:
    """Make a checkpoint with a tokenizer of this kind, which begins texts with a token."""
    make, family, name = KINDS[kind]
    made_checkpoint(folder, **FAMILIES[family], vocab_size=400)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    tokenizer = make()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<unk>", "<s>"]
    trainer = BpeTrainer(
        vocab_size=390, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS * 4, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": name, "bos_token": "<s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_those_of_the_file(tmp_path: Path, kind: str) -> None:
    folder = checkpoint_of(tmp_path / "tiny", kind)
    whole = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenized(folder, TEXTS) == [whole.encode(text).ids for text in TEXTS]


def test_the_kinds_are_such_that_transformers_takes_some_otherwise(tmp_path: Path) -> None:
    """Else the test above would show nothing."""
    differ = []
    for number, kind in enumerate(KINDS):
        folder = checkpoint_of(tmp_path / f"{number}", kind)
        other = AutoTokenizer.from_pretrained(folder)(TEXTS)["input_ids"]
        differ.append(other != tokenized(folder, TEXTS))
    assert sum(differ) >= 4


def test_nothing_is_cut_or_filled_up(tmp_path: Path) -> None:
    folder = checkpoint_of(tmp_path / "tiny", "small letters")
    expected = tokenized(folder, TEXTS)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=50)
    tokenizer.save(str(folder / "tokenizer.json"))
    assert len(tokenizer.encode(TEXTS[0]).ids) == 50
    assert tokenized(folder, TEXTS) == expected


def test_the_settings_beside_the_file_are_not_needed(tmp_path: Path) -> None:
    folder = checkpoint_of(tmp_path / "tiny", "groups of three digits")
    expected = tokenized(folder, TEXTS)
    (folder / "tokenizer_config.json").unlink()
    assert tokenized(folder, TEXTS) == expected


def test_a_text_of_opt_begins_with_its_end_token(tmp_path: Path) -> None:
    """OPT's tokenizer is its vocabulary and merges alone; transformers puts `</s>` before."""
    folder = tmp_path / "opt"
    folder.mkdir()
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    vocabulary |= {letter: 4 + n for n, letter in enumerate(["a", "b", "Ġ", "ab"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\na b\n")
    settings = {
        "tokenizer_class": "GPT2Tokenizer",
        "add_bos_token": True,
        **{f"{name}_token": "</s>" for name in ("bos", "eos", "unk")},
        "pad_token": "<pad>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text('{"model_type": "opt"}')
    assert tokenized(folder, ["ab a", "b"]) == [[2, 7, 6, 4], [2, 5]]


# --- errors, one line each ---


@pytest.mark.parametrize("content", ["", "{}", "[1]", "{", '{"model": {"type": "BPE"}}'])
def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path, content: str) -> None:
    folder = checkpoint_of(tmp_path / "tiny", "small letters")
    (folder / "tokenizer.json").write_text(content)
    message = error_of(tokenized, folder, TEXTS)
    assert message.startswith(f"{folder / 'tokenizer.json'}: must be a tokenizer that the package")


NOTE = POINTER.decode() + "v1\noid sha256:{}\nsize 123456\n".format("0" * 64)


@pytest.mark.parametrize(
    ("file", "action"),
    [
        ("config.json", load_block),
        ("model.safetensors", load_block),
        ("model.safetensors", caption_features),
        ("tokenizer.json", caption_features),
        ("tokenizer.model", caption_features),
        ("vocab.json", caption_features),
        ("tokenizer_config.json", caption_features),
    ],
)
def test_a_pointer_of_git_lfs_is_named_as_such(tmp_path: Path, file: str, action) -> None:
    folder = made_checkpoint(tmp_path / "tiny", **FAMILIES["llama"])
    if file in ("tokenizer.model", "vocab.json", "tokenizer_config.json"):
        (folder / "tokenizer.json").rename(folder / "vocab.json")
    (folder / file).write_text(NOTE)
    arguments = (0,) if action is load_block else (["a cat"], 1)
    assert error_of(action, folder, *arguments) == (
        f"{folder / file}: must be the file itself, got git-lfs's pointer to it. Run `git lfs "
        "pull` in its folder."
    )


def test_pointers_in_parts_that_are_not_needed_do_no_harm(tmp_path: Path) -> None:
    folder = made_checkpoint(tmp_path / "tiny", **FAMILIES["llama"])
    for name in ("pytorch_model.bin", "flax_model.msgpack"):
        (folder / name).write_text(NOTE)
    assert load_block(folder, 0).layer == 0


def test_doctor_does_not_take_pointers_for_a_model(tmp_path: Path) -> None:
    folder = made_checkpoint(tmp_path / "tiny", **FAMILIES["llama"])
    assert present("checkpoint tiny", [str(folder)], "get it").is_well
    (folder / "model.safetensors").write_text(NOTE)
    finding = present("checkpoint tiny", [str(folder)], "get it")
    assert not finding.is_well
    assert f"git-lfs's pointers alone at {folder}: run `git lfs pull`" in finding.text
    (folder / "model.gguf").write_text(NOTE)
    assert not present("checkpoint tiny", [str(folder / "model.gguf")], "get it").is_well
    assert present("data", [str(tmp_path)], "get it").is_well
