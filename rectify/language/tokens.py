"""Tokens of captions, exactly as a checkpoint's tokenizer gives them.

``tokenizer.json`` says all by itself, and is taken at its word: transformers would build some
classes of tokenizers anew from its vocabulary, and split texts otherwise. Its truncation and
padding, which are for batches of one length, are left out.
"""

from pathlib import Path

from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.integrations.gguf.gguf_tokenizer_mapping import (
    GGUF_PRE_TOKENIZER_SPLITS,
    convert_gguf_tokenizer,
    get_gguf_tokenizer,
)

from rectify.language import gguf_format
from rectify.results.files import check_no_pointer, read_json

WHOLE = "tokenizer.json"
PIECES = "tokenizer.model"  # of SentencePiece
AS_GPT2 = ("gpt-2", "smollm")  # what splits texts as GPT-2 does; SmolLM's merges join no digits
TOKENIZERS = (WHOLE, PIECES, "vocab.json")  # the first of them that is there is used


def tokenized(checkpoint: Path, captions: list[str]) -> list[list[int]]:
    """Return the tokens of each caption, special ones included.

    Raises:
        ValueError: If the checkpoint has no tokenizer, or one that cannot be read.
    """
    if gguf_format.is_here(checkpoint):
        return _described(checkpoint)(captions)["input_ids"]
    present = [name for name in TOKENIZERS if (checkpoint / name).is_file()]
    if not present:  # transformers would make a vocabulary of special tokens alone
        raise ValueError(
            f"{checkpoint}: must hold the model's tokenizer, {', '.join(TOKENIZERS)}, got none. "
            "Get it, or convert it to tokenizer.json elsewhere."
        )
    check_no_pointer(checkpoint / present[0])
    if present[0] == WHOLE:
        return [one.ids for one in _whole(checkpoint / WHOLE).encode_batch(captions)]
    settings = read_json(checkpoint / "tokenizer_config.json")
    if present[0] == PIECES:
        return _pieces(checkpoint / PIECES, captions, settings)
    return AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)(captions)["input_ids"]


def _whole(path: Path) -> Tokenizer:
    """Return the tokenizer of a ``tokenizer.json``, which neither cuts texts nor fills them up."""
    try:
        tokenizer = Tokenizer.from_file(f"{path}")
    except Exception as error:
        if type(error) is not Exception:  # the package raises nothing more special
            raise
        raise ValueError(
            f"{path}: must be a tokenizer that the package tokenizers reads, got {error}. Get the "
            "file again."
        ) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _described(checkpoint: Path) -> PreTrainedTokenizerFast:
    """Return the tokenizer that the metadata of a GGUF file describe."""
    splits = gguf_format.text_splits(checkpoint)
    if splits not in (None, *GGUF_PRE_TOKENIZER_SPLITS, *AS_GPT2):
        raise ValueError(
            f"{checkpoint}: tokenizer.ggml.pre must be a way to split texts that transformers "
            f"knows, got {splits}. Use the model in Hugging Face format."
        )
    try:
        architecture, described, settings = get_gguf_tokenizer(str(checkpoint))
        tokenizer, _ = convert_gguf_tokenizer(architecture, described)
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{checkpoint}: the metadata must describe a tokenizer that transformers knows, got "
            f"{error!r}. Use the model in Hugging Face format."
        ) from None


def _pieces(path: Path, captions: list[str], settings: dict[str, object]) -> list[list[int]]:
    """Return SentencePiece's own tokens: transformers, converting, leaves its normalization out."""
    begin, end = settings.get("add_bos_token", True), settings.get("add_eos_token", False)
    try:
        processor = SentencePieceProcessor(model_file=str(path))
        return processor.encode(captions, add_bos=bool(begin), add_eos=bool(end))
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"{path}: must be SentencePiece's tokenizer of the model, got {error}. Get the file "
            "again, or convert it to tokenizer.json elsewhere."
        ) from None
