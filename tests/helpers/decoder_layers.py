"""The oracle: each family's decoder layer, written from the papers.

Without positions, without a mask, in the precision of what is given. ``w`` gives a tensor of the
layer by its name, ``config`` is what the checkpoint's ``config.json`` holds.
"""

from collections.abc import Mapping

from torch import Tensor
from torch.nn.functional import gelu, layer_norm, relu, silu

from tests.helpers.tiny_checkpoints import HEADS, WIDTH

Weights = Mapping[str, Tensor]


def reference(x: Tensor, w: Weights, config: Mapping) -> Tensor:
    """Return the tokens (batch, tokens, dim) after the layer."""
    return REFERENCES.get(config["model_type"], reference_rotary)(x, w, config)


def split(x: Tensor, head_dim: int = WIDTH // HEADS) -> Tensor:
    """Return (batch, heads, tokens, head_dim)."""
    return x.unflatten(-1, (-1, head_dim)).transpose(1, 2)


def attend(query: Tensor, key: Tensor, value: Tensor, bound: float | None = None) -> Tensor:
    """Return softmax(QK / sqrt(d)) V with shared keys; ``bound`` x tanh(score / bound), if any."""
    key = key.repeat_interleave(HEADS // key.shape[1], 1)
    value = value.repeat_interleave(HEADS // value.shape[1], 1)
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    if bound:
        scores = bound * (scores / bound).tanh()
    return (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)


def linear(x: Tensor, w: Weights, name: str) -> Tensor:
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)


def norm(x: Tensor, w: Weights, name: str) -> Tensor:
    """The layer norm of that name, which may have no weights at all, or no bias."""
    return layer_norm(x, x.shape[-1:], w.get(f"{name}.weight"), w.get(f"{name}.bias"), 1e-5)


def root_mean_square(x: Tensor, weight: Tensor, config: Mapping) -> Tensor:
    epsilon, gain = config["rms_norm_eps"], config["model_type"].startswith("gemma")
    return x * (x.square().mean(-1, keepdim=True) + epsilon).rsqrt() * (weight + gain)


def reference_rotary(x: Tensor, w: Weights, config: Mapping) -> Tensor:
    """LLaMA, Mistral, Qwen, SmolLM3, Phi-3, the Gemmas, and OLMo 2, which norms after its parts."""

    def normed(y: Tensor, name: str) -> Tensor:
        weight = w.get(f"{name}.weight")
        return y if weight is None else root_mean_square(y, weight, config)

    head_dim = config.get("head_dim") or WIDTH // HEADS
    y = normed(x, "input_layernorm")
    if "self_attn.qkv_proj.weight" in w:  # Phi-3
        keys = config["num_key_value_heads"] * head_dim
        sizes = (HEADS * head_dim, keys, keys)
        flat = dict(zip("qkv", linear(y, w, "self_attn.qkv_proj").split(sizes, -1), strict=True))
    else:
        flat = {part: linear(y, w, f"self_attn.{part}_proj") for part in "qkv"}
    over_all = config["model_type"] == "olmo2"
    for part in "qk":
        if over_all:
            flat[part] = normed(flat[part], f"self_attn.{part}_norm")
    parts = {part: split(tokens, head_dim) for part, tokens in flat.items()}
    for part in "qk":  # Qwen3, Gemma 3
        if not over_all:
            parts[part] = normed(parts[part], f"self_attn.{part}_norm")
    mixed = attend(*parts.values(), config.get("attn_logit_softcapping"))
    mixed = linear(mixed, w, "self_attn.o_proj")
    is_sandwich = "pre_feedforward_layernorm.weight" in w  # Gemma 2 and 3
    if is_sandwich or over_all:
        mixed = normed(mixed, "post_attention_layernorm")
    x = x + mixed
    if is_sandwich:
        y = normed(x, "pre_feedforward_layernorm")
    else:
        y = x if over_all else normed(x, "post_attention_layernorm")
    if "mlp.gate_up_proj.weight" in w:  # Phi-3
        gate, up = linear(y, w, "mlp.gate_up_proj").chunk(2, -1)
    else:
        gate, up = linear(y, w, "mlp.gate_proj"), linear(y, w, "mlp.up_proj")
    gemma = config["model_type"].startswith("gemma")
    gate = gelu(gate, approximate="tanh") if gemma else silu(gate)
    return x + normed(linear(gate * up, w, "mlp.down_proj"), "post_feedforward_layernorm")


def reference_olmo(x: Tensor, w: Weights, config: Mapping) -> Tensor:
    most = config["clip_qkv"]
    y = norm(x, w, "no weights")
    flat = [linear(y, w, f"self_attn.{part}_proj").clamp(-most, most) for part in "qkv"]
    x = x + linear(attend(*map(split, flat)), w, "self_attn.o_proj")
    y = norm(x, w, "no weights")
    return x + linear(
        silu(linear(y, w, "mlp.gate_proj")) * linear(y, w, "mlp.up_proj"), w, "mlp.down_proj"
    )


def reference_stablelm(x: Tensor, w: Weights, config: Mapping) -> Tensor:
    y = norm(x, w, "input_layernorm")
    parts = {part: split(linear(y, w, f"self_attn.{part}_proj")) for part in "qkv"}
    if config["qk_layernorm"]:  # each head has a norm of its own
        for part in "qk":
            for head in range(parts[part].shape[1]):
                name = f"self_attn.{part}_layernorm.norms.{head}"
                parts[part][:, head] = norm(parts[part][:, head].clone(), w, name)
    mixed = linear(attend(*parts.values()), w, "self_attn.o_proj")
    if not config["use_parallel_residual"]:
        x = x + mixed
        y, mixed = norm(x, w, "post_attention_layernorm"), 0
    hidden = silu(linear(y, w, "mlp.gate_proj")) * linear(y, w, "mlp.up_proj")
    return x + mixed + linear(hidden, w, "mlp.down_proj")


def reference_phi(x: Tensor, w: Weights, config: Mapping) -> Tensor:
    y = norm(x, w, "input_layernorm")
    parts = {part: split(linear(y, w, f"self_attn.{part}_proj")) for part in "qkv"}
    if config["qk_layernorm"]:
        for part in "qk":
            parts[part] = norm(parts[part], w, f"self_attn.{part}_layernorm")
    mixed = linear(attend(*parts.values()), w, "self_attn.dense")
    hidden = gelu(linear(y, w, "mlp.fc1"), approximate="tanh")
    return x + mixed + linear(hidden, w, "mlp.fc2")


def reference_gpt_neox(x: Tensor, w: Weights, config: Mapping) -> Tensor:
    mixed = linear(norm(x, w, "input_layernorm"), w, "attention.query_key_value")
    parts = mixed.unflatten(-1, (HEADS, 3, -1)).unbind(-2)
    mixed = linear(attend(*(part.transpose(1, 2) for part in parts)), w, "attention.dense")
    y = x if config["use_parallel_residual"] else x + mixed
    hidden = gelu(linear(norm(y, w, "post_attention_layernorm"), w, "mlp.dense_h_to_4h"))
    return x + mixed + linear(hidden, w, "mlp.dense_4h_to_h")


def reference_falcon(x: Tensor, w: Weights, config: Mapping) -> Tensor:
    is_new = config["new_decoder_architecture"]
    y = norm(x, w, "ln_attn" if is_new else "input_layernorm")
    mixed = linear(y, w, "self_attention.query_key_value")
    groups = HEADS if not config["multi_query"] else 1
    groups = config["num_kv_heads"] if is_new else groups
    heads = mixed.unflatten(-1, (groups, HEADS // groups + 2, -1))  # by group: queries, k, v
    query = heads[..., :-2, :].flatten(2, 3)
    parts = (part.transpose(1, 2) for part in (query, heads[..., -2, :], heads[..., -1, :]))
    mixed = linear(attend(*parts), w, "self_attention.dense")
    if is_new:
        y = norm(x, w, "ln_mlp")
    elif not config["parallel_attn"]:
        y = norm(x + mixed, w, "post_attention_layernorm")
    hidden = gelu(linear(y, w, "mlp.dense_h_to_4h"))
    return x + mixed + linear(hidden, w, "mlp.dense_4h_to_h")


def reference_opt(x: Tensor, w: Weights, config: Mapping) -> Tensor:
    before = config["do_layer_norm_before"]
    y = norm(x, w, "self_attn_layer_norm") if before else x
    mixed = attend(*(split(linear(y, w, f"self_attn.{part}_proj")) for part in "qkv"))
    x = x + linear(mixed, w, "self_attn.out_proj")
    x = x if before else norm(x, w, "self_attn_layer_norm")
    y = norm(x, w, "final_layer_norm") if before else x
    x = x + linear(relu(linear(y, w, "fc1")), w, "fc2")
    return x if before else norm(x, w, "final_layer_norm")


def reference_gpt2(x: Tensor, w: Weights, config: Mapping) -> Tensor:
    w = {name: tensor.T if tensor.ndim == 2 else tensor for name, tensor in w.items()}
    mixed = attend(*map(split, linear(norm(x, w, "ln_1"), w, "attn.c_attn").chunk(3, -1)))
    x = x + linear(mixed, w, "attn.c_proj")
    hidden = gelu(linear(norm(x, w, "ln_2"), w, "mlp.c_fc"), approximate="tanh")
    return x + linear(hidden, w, "mlp.c_proj")


def reference_bloom(x: Tensor, w: Weights, config: Mapping) -> Tensor:
    mixed = linear(norm(x, w, "input_layernorm"), w, "self_attention.query_key_value")
    parts = mixed.unflatten(-1, (HEADS, 3, -1)).unbind(-2)
    mixed = attend(*(part.transpose(1, 2) for part in parts))
    x = x + linear(mixed, w, "self_attention.dense")
    y = norm(x, w, "post_attention_layernorm")
    hidden = gelu(linear(y, w, "mlp.dense_h_to_4h"), approximate="tanh")
    return x + linear(hidden, w, "mlp.dense_4h_to_h")


REFERENCES = {
    "bloom": reference_bloom,
    "falcon": reference_falcon,
    "gpt2": reference_gpt2,
    "gpt_neox": reference_gpt_neox,
    "olmo": reference_olmo,
    "opt": reference_opt,
    "phi": reference_phi,
    "stablelm": reference_stablelm,
}
