"""`python -m benchmarks.make_llama FOLDER`: a checkpoint of LLaMA-7B's true shape, random.

32 layers are 13.5 GB in shards of at most 2 GB, in Hugging Face format and bfloat16, without a
tokenizer; ``--layers 2`` are 1.3 GB.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

WIDTH, MLP, WORDS = 4096, 11008, 32_000
LAYER = {
    **{f"self_attn.{part}_proj": (WIDTH, WIDTH) for part in "qkvo"},
    "mlp.gate_proj": (MLP, WIDTH),
    "mlp.up_proj": (MLP, WIDTH),
    "mlp.down_proj": (WIDTH, MLP),
    "input_layernorm": (WIDTH,),
    "post_attention_layernorm": (WIDTH,),
}
SHARD_BYTES = 2 * 10**9


def main() -> None:
    """Write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=32)
    args = parser.parse_args()
    make(args.folder, args.layers)


def make(folder: Path, layers: int) -> None:
    """Write a LLaMA with ``layers`` decoder layers of the 7B model's shape to ``folder``."""
    folder.mkdir(parents=True)
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": WIDTH,
        "intermediate_size": MLP,
        "num_attention_heads": 32,
        "num_hidden_layers": layers,
        "rms_norm_eps": 1e-6,
        "vocab_size": WORDS,
        "dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    shards = list(_shards(_shapes(layers)))
    places, total, draws = {}, 0, np.random.default_rng(0)
    for number, shapes in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file({name: _drawn(s, draws) for name, s in shapes.items()}, folder / file)
        places |= dict.fromkeys(shapes, file)
        total += sum(_bytes(shape) for shape in shapes.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _shapes(layers: int) -> dict[str, tuple[int, ...]]:
    return {
        "model.embed_tokens.weight": (WORDS, WIDTH),
        **{
            f"model.layers.{layer}.{name}.weight": shape
            for layer in range(layers)
            for name, shape in LAYER.items()
        },
        "model.norm.weight": (WIDTH,),
        "lm_head.weight": (WORDS, WIDTH),
    }


def _shards(shapes: dict[str, tuple[int, ...]]) -> Iterator[dict[str, tuple[int, ...]]]:
    shard: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        if sum(map(_bytes, shard.values())) + _bytes(shape) > SHARD_BYTES:
            yield shard
            shard = {}
        shard[name] = shape
    yield shard


def _bytes(shape: tuple[int, ...]) -> int:
    return 2 * torch.Size(shape).numel()


def _drawn(shape: tuple[int, ...], draws: np.random.Generator) -> Tensor:
    """Return values of random sign and mantissa, 0.016 .. 0.031 in size: a fast way to draw."""
    bits = draws.integers(0, 2**16, shape, dtype=np.uint16)
    bits &= 0x807F
    bits |= 0x3C80
    return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)


if __name__ == "__main__":
    main()
