"""Pretrain a small language model, character by character, on a list of names.

The demo's stand-in for LLaMA and OPT: the same architectures in miniature, saved as an
ordinary Hugging Face folder. Every training window starts where a name starts, as a caption
does later, and runs on into the names after it; one token, ``</s>``, stands before each name.

The loss is in nats per character. A model that knows only how often each character occurs
reaches the unigram entropy ``-sum p log p`` of the text; all below it was learned from context.
"""

import functools
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Int
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from rectify.results.declared import PRETRAINING
from rectify.results.files import atomic_path
from rectify.results.provenance import provenance
from rectify.results.tables import write_table
from rectify.runtime import generator, seed_for

PADDING, BOUNDARY, UNKNOWN = "<pad>", "</s>", "<unk>"
HELD_OUT = 0.05  # share of the names that validation keeps
ROWS = 10  # rows of the curve
VALIDATION_WINDOWS = 32
INITIAL_STD = 0.06  # 0.02, the families' default, learns slower at these widths
WEIGHT_DECAY, BETAS, CLIP = 0.1, (0.9, 0.95), 1.0
WARMUP = 0.1  # share of the steps in which the learning rate rises
FLOOR = 0.05  # share of the learning rate that is left at the end

logger = logging.getLogger(__name__)


def pretrain(
    output: Path,
    names: list[str],
    *,
    language: str,
    family: str,
    layers: int,
    hidden: int,
    heads: int,
    steps: int,
    seed: int,
    batch_size: int = 6,
    context: int = 96,
    lr: float = 3e-3,
) -> float:
    """Pretrain a model, write its folder, and return the validation loss in nats per character.

    Writes ``config.json``, ``model.safetensors``, the tokenizer's files and the curve,
    ``pretraining.csv``. Each file appears complete, and ``config.json``, which every reader
    needs, last. On one thread the same arguments give the same weights.

    Args:
        output: Folder to write.
        names: The text, one name per item; 5 % of them are held out.
        language: Name of the model in the tables.
        family: ``llama`` or ``opt``.
        layers: Decoder blocks.
        hidden: Width of the hidden states; a multiple of twice ``heads``.
        heads: Attention heads.
        steps: Optimizer steps; 0 leaves the model untrained.
        seed: Decides initial weights, held-out names and windows.
        batch_size: Windows per step.
        context: Characters per window, and the longest text that the model takes.
        lr: Peak of the warm-up and cosine schedule of AdamW.

    Raises:
        ValueError: If a size or the text does not fit.
    """
    _check(names, family, hidden, heads, steps, batch_size, context)
    tokenizer = character_tokenizer(names)
    training, held_out = (_stream(tokenizer, part) for part in _split(names, seed))
    with torch.random.fork_rng(devices=[]):  # constructors draw from the global generator
        torch.manual_seed(seed_for(seed, "weights"))
        model = FAMILIES[family](tokenizer, layers, hidden, heads, context)
    windows = _windows(training, tokenizer.bos_token_id, batch_size, context, seed)
    validate = functools.partial(_validation_loss, model, held_out, context)
    curve = _fit(model, windows, validate, steps, lr)
    facts = {
        "language": language,
        "family": family,
        "layers": layers,
        "hidden": hidden,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "block_parameters": _block_parameters(model),
        "characters_seen": steps * batch_size * context,
        "unigram_entropy": unigram_entropy(torch.cat([training, held_out])),
        "validation_loss": curve[-1][-1],
    }
    _save(output, model, tokenizer, curve, provenance(seed, __name__, **facts))
    return curve[-1][-1]


def character_tokenizer(names: list[str]) -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per character, which puts ``</s>`` before a text."""
    tokens = [PADDING, BOUNDARY, UNKNOWN, *sorted(set("".join(names)))]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    characters = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    characters.post_processor = processors.TemplateProcessing(
        single=f"{BOUNDARY} $A", special_tokens=[(BOUNDARY, vocabulary[BOUNDARY])]
    )
    characters.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=characters,
        pad_token=PADDING,
        bos_token=BOUNDARY,
        eos_token=BOUNDARY,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
    )


def unigram_entropy(stream: Int[Tensor, " tokens"]) -> float:
    """Return the entropy of the tokens' frequencies in nats per token."""
    shares = torch.bincount(stream).double() / len(stream)
    return -torch.special.xlogy(shares, shares).sum().item()


def _llama(
    tokenizer: PreTrainedTokenizerFast, layers: int, hidden: int, heads: int, context: int
) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            intermediate_size=32 * math.ceil(8 * hidden / 3 / 32),  # 8/3 hidden, as in LLaMA
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=context,
            tie_word_embeddings=True,
            initializer_range=INITIAL_STD,
            **_special_tokens(tokenizer),
        )
    )


def _opt(
    tokenizer: PreTrainedTokenizerFast, layers: int, hidden: int, heads: int, context: int
) -> OPTForCausalLM:
    return OPTForCausalLM(
        OPTConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            word_embed_proj_dim=hidden,
            ffn_dim=4 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=context,
            dropout=0.0,
            init_std=INITIAL_STD,
            **_special_tokens(tokenizer),
        )
    )


FAMILIES: dict[str, Callable[..., PreTrainedModel]] = {"llama": _llama, "opt": _opt}


def _special_tokens(tokenizer: PreTrainedTokenizerFast) -> dict[str, int | None]:
    return {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def _check(
    names: list[str], family: str, hidden: int, heads: int, steps: int, batch: int, context: int
) -> None:
    problem = None
    if family not in FAMILIES:
        problem = f"family must be one of {', '.join(FAMILIES)}, got {family!r}"
    elif hidden % (2 * heads):
        problem = f"hidden must be a multiple of twice the heads, got {hidden} and {heads} heads"
    elif steps < 0 or batch < 1 or context < 1:
        problem = (
            f"steps must be at least 0, batch_size and context at least 1, "
            f"got {steps}, {batch} and {context}"
        )
    elif HELD_OUT * len(names) < 1:
        problem = f"at least {math.ceil(1 / HELD_OUT)} names are needed, got {len(names)}"
    if problem:
        raise ValueError(f"pretrain: {problem}. Change pretraining in the config.")


def _split(names: list[str], seed: int) -> tuple[list[str], list[str]]:
    order = torch.randperm(len(names), generator=generator(seed, "split")).tolist()
    shuffled = [names[index] for index in order]
    held_out = round(HELD_OUT * len(names))
    return shuffled[held_out:], shuffled[:held_out]


def _stream(tokenizer: PreTrainedTokenizerFast, names: list[str]) -> Int[Tensor, " tokens"]:
    rows = tokenizer(names)["input_ids"]
    return torch.tensor([token for row in rows for token in row])


def _windows(
    stream: Int[Tensor, " tokens"],
    start: int,
    batch: int,
    context: int,
    seed: int,
) -> Callable[[], Int[Tensor, "batch tokens"]]:
    """Return a function that draws windows of ``context`` + 1 tokens, each from a name's start."""
    starts = (stream == start).nonzero().squeeze(1)
    stream = torch.cat([stream, stream.repeat(1 + context // len(stream))])  # begins again
    offsets, draws = torch.arange(context + 1), generator(seed, "windows")

    def draw() -> Int[Tensor, "batch tokens"]:
        chosen = starts[torch.randint(len(starts), (batch, 1), generator=draws)]
        return stream[chosen + offsets]

    return draw


def _fit(
    model: PreTrainedModel,
    windows: Callable[[], Int[Tensor, "batch tokens"]],
    validate: Callable[[], float],
    steps: int,
    lr: float,
) -> list[tuple[int, float, float]]:
    """Train in place; return rows of (step, train loss since the row before, validation loss)."""
    optimizer = _optimizer(model, lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, functools.partial(_rate, steps=steps))
    interval = max(1, steps // ROWS)
    curve, losses = [(0, _loss(model, windows()).item(), validate())], []
    for step in range(1, steps + 1):
        loss = _loss(model.train(), windows())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % interval == 0 or step == steps:
            curve.append((step, sum(losses) / len(losses), validate()))
            losses.clear()
            logger.info("step %d: train loss %.4f, validation loss %.4f", *curve[-1])
    return curve


def _optimizer(model: PreTrainedModel, lr: float) -> torch.optim.Optimizer:
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=BETAS, fused=True)


def _rate(step: int, steps: int) -> float:
    """Return the share of the peak learning rate: linear warm-up, then a cosine to the floor."""
    warmup = max(1, round(WARMUP * steps))
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * progress)) / 2


def _loss(model: PreTrainedModel, windows: Int[Tensor, "batch tokens"]) -> Tensor:
    logits = model(windows[:, :-1], use_cache=False).logits
    return functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


@torch.no_grad()
def _validation_loss(model: PreTrainedModel, stream: Int[Tensor, " tokens"], context: int) -> float:
    """Return the mean loss over adjacent windows at the start of ``stream``."""
    length = min(context + 1, len(stream))
    rows = min(len(stream) // length, VALIDATION_WINDOWS)
    return _loss(model.eval(), stream[: rows * length].view(rows, length)).item()


def _block_parameters(model: PreTrainedModel) -> int:
    total = sum(p.numel() for name, p in model.named_parameters() if ".layers." in name)
    return total // model.config.num_hidden_layers


def _save(
    output: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    curve: list[tuple[int, float, float]],
    note: dict[str, object],
) -> None:
    output.mkdir(parents=True, exist_ok=True)
    (output / "config.json").unlink(missing_ok=True)
    write_table(PRETRAINING, curve, output / "pretraining.csv", note)
    with tempfile.TemporaryDirectory() as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        for name in sorted(os.listdir(temporary), key=lambda name: name == "config.json"):
            with atomic_path(output / name) as unfinished:
                shutil.copyfile(Path(temporary, name), unfinished)
