"""Models that people have: measured as a loop over samples would, or refused for a true reason."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import timm
import torch
import transformers
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

from rectify.gsnr.measure import gradient_moments
from rectify.gsnr.moments import GradientMoments
from tests.helpers.moments import assert_close, per_sample

SAMPLES = 4
LABELS = torch.arange(SAMPLES) % 3
DRAWS = torch.Generator().manual_seed(4)
VECTORS = torch.randn(SAMPLES, 6, generator=DRAWS, dtype=torch.float64)
TOKENS = torch.randn(SAMPLES, 5, 6, generator=DRAWS, dtype=torch.float64)
IMAGES = torch.randn(SAMPLES, 3, 32, 32, generator=DRAWS, dtype=torch.float64)
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
         "intermediate_size": 24}  # fmt: skip
WORDS = {
    "input_ids": torch.randint(20, (SAMPLES, 7), generator=DRAWS),
    "attention_mask": torch.ones(SAMPLES, 7, dtype=torch.long).tril(5),
}

Inputs = Tensor | Mapping[str, Tensor]
Case = tuple[Callable[[], nn.Module], Inputs, str | list[str], dict[str, Any]]


class Pooled(nn.Module):
    """The first three features, as means over the tokens or places of what a layer gives."""

    def __init__(self, layer: nn.Module, axis: int = -1) -> None:
        super().__init__()
        self.layer, self.axis = layer, axis

    def forward(self, values: Tensor) -> Tensor:
        outputs = self.layer(values)
        outputs = outputs[0] if isinstance(outputs, tuple) else outputs
        outputs = outputs.movedim(self.axis, 1)
        return outputs.reshape(*outputs.shape[:2], -1).square().mean(2)[:, :3]


class OwnParameters(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token, self.positions = (nn.Parameter(torch.ones(1, n, 6)) for n in (1, 6))
        self.layer = nn.TransformerEncoderLayer(6, 2, 8, 0.0, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, values: Tensor) -> Tensor:
        values = torch.cat([self.token.expand(len(values), -1, -1), values], 1) + self.positions
        return self.head(self.layer(values)[:, 0])


def self_attention() -> nn.Module:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.MultiheadAttention(6, 2, batch_first=True)

        def forward(self, values: Tensor) -> Tensor:
            return self.layer(values, values, values)[0].mean(1)[:, :3]

    return Attention()


def layers(*between: nn.Module, last: int = 6) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 6), *between, nn.Linear(last, 3))


def cnn(*between: nn.Module, **options: Any) -> nn.Module:
    options = {"padding": 1, "stride": 2} | options
    return Pooled(nn.Sequential(nn.Conv2d(3, 6, 3, **options), *between, nn.ReLU(True)), 1)


def vision(name: str, **settings: Any) -> nn.Module:
    sizes = {"img_size": 32, "embed_dim": 16, "num_heads": 2, "depth": 2, "num_classes": 3}
    return timm.create_model(name, **{**sizes, **settings})


def checkpointed() -> nn.Module:
    model = vision("vit_small_patch16_224")
    model.set_grad_checkpointing()
    return model


def frozen() -> nn.Module:
    model = vision("vit_small_patch16_224").requires_grad_(False)
    model.head.requires_grad_(True)
    model.blocks[1].norm1.requires_grad_(True)
    return model


def swin() -> nn.Module:
    return timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=32, window_size=4, embed_dim=8, depths=(2,),
        num_heads=(2,), num_classes=3,
    )  # fmt: skip


def bert() -> nn.Module:
    config = transformers.BertConfig(
        vocab_size=20, max_position_embeddings=8, num_labels=3, **SMALL
    )
    return transformers.BertForSequenceClassification(config)


def hf_vit() -> nn.Module:
    config = transformers.ViTConfig(image_size=32, num_labels=3, **SMALL)
    return transformers.ViTForImageClassification(config)


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=20, n_positions=8, n_embd=16, n_layer=2, n_head=2, num_labels=3, pad_token_id=0
    )
    return transformers.GPT2ForSequenceClassification(config)


def llama() -> nn.Module:
    config = transformers.LlamaConfig(
        vocab_size=20, num_key_value_heads=1, max_position_embeddings=8, num_labels=3,
        pad_token_id=0, **SMALL,
    )  # fmt: skip
    return transformers.LlamaForSequenceClassification(config)


MEASURED: dict[str, Case] = {
    "mlp": (lambda: layers(nn.Tanh()), VECTORS, "", {}),
    "in-place relu": (lambda: layers(nn.ReLU(inplace=True)), VECTORS, "", {}),
    "cnn": (cnn, IMAGES, "", {}),
    "bert encoder": (bert, WORDS, ["bert.encoder"], {}),
    "bert layer": (bert, WORDS, ["bert.encoder.layer.1"], {}),
    "bert": (bert, WORDS, "", {"whole": ["bert.embeddings"]}),
    "hf-vit layers": (hf_vit, IMAGES, ["vit.layers"], {}),
    "hf-vit": (hf_vit, IMAGES, "", {}),
    "vit": (lambda: vision("vit_small_patch16_224"), IMAGES, "", {}),
    "deit3": (lambda: vision("deit3_small_patch16_224"), IMAGES, "", {}),
    "dinov2 with registers": (lambda: vision("vit_small_patch14_reg4_dinov2", img_size=28),
                              IMAGES[..., :28, :28], "", {}),
    "frozen trunk": (frozen, IMAGES, "", {}),
    "checkpoints": (checkpointed, IMAGES, "", {}),
    "batch norm in eval mode": (lambda: cnn(nn.BatchNorm2d(6)), IMAGES, "", {}),
    "group norm": (lambda: cnn(nn.GroupNorm(2, 6)), IMAGES, "", {}),
    "rms norm": (lambda: layers(nn.RMSNorm(6)), VECTORS, "", {}),
    "prelu": (lambda: layers(nn.PReLU(6)), VECTORS, "", {}),
    "conv1d": (lambda: Pooled(nn.Conv1d(5, 4, 3, padding="same"), 1), TOKENS, "", {}),
    "depthwise convolution": (lambda: cnn(nn.Conv2d(6, 6, 3, groups=6)), IMAGES, "", {}),
    "grouped convolution": (lambda: cnn(nn.Conv2d(6, 4, 3, groups=2)), IMAGES, "", {}),
    "same padding": (lambda: cnn(padding="same", stride=1), IMAGES, "", {}),
    "embedding": (lambda: Pooled(nn.Embedding(20, 6)), WORDS["input_ids"], "", {}),
    "attention": (self_attention, TOKENS, "", {}),
    "encoder layer": (lambda: Pooled(nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)),
                      TOKENS, "", {}),
    "lstm": (lambda: Pooled(nn.LSTM(6, 4, batch_first=True)), TOKENS, "", {}),
    "own parameters": (OwnParameters, TOKENS, "", {}),
    "convnext": (lambda: timm.create_model("convnext_atto", depths=(1,) * 4, dims=(8,) * 4,
                                           num_classes=3, conv_mlp=True, ls_init_value=0.5),
                 IMAGES, "", {}),
    "swin": (swin, IMAGES, "", {"whole": ["layers.0"]}),
    "resnet in eval mode": (lambda: ResNet(BasicBlock, [1, 1, 1, 1], 3), IMAGES, "", {}),
    "gpt2 blocks": (gpt2, WORDS, ["transformer.h"], {}),
    "llama layers": (llama, WORDS, ["model.layers", "score"], {}),
    "llama": (llama, WORDS, "", {}),
}  # fmt: skip


def built(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    model = build().double().eval()
    with torch.no_grad():
        for parameter in model.parameters():  # no bias of 0, no gain of 1
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def losses(outputs: Any, targets: Tensor) -> Tensor:
    return per_sample(getattr(outputs, "logits", outputs), targets)


def call(model: nn.Module, inputs: Inputs) -> Any:
    return model(**inputs) if isinstance(inputs, Mapping) else model(inputs)


def one_by_one(model: nn.Module, inputs: Inputs) -> dict[str, tuple[Tensor, Tensor]]:
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    stacks: dict[str, list[Tensor]] = {name: [] for name in named}
    for i in range(SAMPLES):
        own = slice(i, i + 1)
        alone = {key: values[own] for key, values in inputs.items()} if isinstance(
            inputs, Mapping) else inputs[own]  # fmt: skip
        gradients = torch.autograd.grad(
            losses(call(model, alone), LABELS[own]).sum(), list(named.values()),
            allow_unused=True, materialize_grads=True,
        )  # fmt: skip
        for name, gradient in zip(named, gradients, strict=True):
            stacks[name].append(gradient)
    return {
        name: ((g := torch.stack(own)).mean(0), g.var(0, correction=0))
        for name, own in stacks.items()
    }


@pytest.mark.parametrize("name", MEASURED)
def test_a_model_is_measured_as_a_loop_over_samples_would(name: str) -> None:
    build, inputs, parts, options = MEASURED[name]
    model = built(build)
    expected = one_by_one(model, inputs)
    found = gradient_moments(model, inputs, LABELS, losses, parts, **options)
    chosen = tuple([parts] if isinstance(parts, str) else parts)
    expected = {key: values for key, values in expected.items() if key.startswith(chosen)}
    for key in list(expected):  # softmax ignores a key's bias: its gradient is rounding
        if key.endswith(("key.bias", "k_proj.bias")):
            assert found.pop(key).mean.abs().max() < 1e-12
            del expected[key]
    largest = max(mean.norm() for mean, _ in expected.values())
    noise = {key for key, (mean, _) in expected.items() if mean.norm() < 1e-9 * largest}
    for key in noise:
        assert found.pop(key).mean.norm() < 1e-9 * largest
        del expected[key]
    assert_close(split(found, as_moments=True), split(expected), 1e-9)


def split(values: Mapping[str, Any], *, as_moments: bool = False) -> dict[str, Any]:
    """Leave out the key's part of a bias of queries, keys and values in one."""
    return {key: value for key, value in values.items()
            if not key.endswith(("in_proj_bias", "c_attn.bias", "qkv.bias"))}  # fmt: skip


REFUSED: dict[str, tuple[Case, str]] = {
    "batch norm": ((lambda: cnn(nn.BatchNorm2d(6)).train(), IMAGES, "", {}),
                   "layer.1 must treat each sample separately, got BatchNorm2d of a batch"),
    "batch norm without parameters": (
        (lambda: layers(nn.BatchNorm1d(6, affine=False)), VECTORS, "", {}),
        "1 must treat each sample separately, got BatchNorm1d of a batch"),
    "resnet": ((lambda: ResNet(BasicBlock, [1, 1, 1, 1], 3), IMAGES, "", {}),
               "bn1 must treat each sample separately, got BatchNorm2d"),
    "positions that samples share": ((bert, WORDS, "", {}),
                                     r"position_embeddings must run once .* gradients of 1 of 4"),
    "windows": ((swin, IMAGES, "", {}), r"attn must run once .* gradients of 16 of 4.* in whole"),
    "tied weights": ((lambda: transformers.GPT2LMHeadModel(gpt2().config), WORDS, "", {}),
                     "each in one place, got .* leave one of two tied layers out by exclude"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_is_refused_for_a_true_reason(name: str) -> None:
    (build, inputs, parts, options), said = REFUSED[name]
    model = built(build).train(name not in ("windows", "positions that samples share"))
    with pytest.raises(ValueError, match=said):
        gradient_moments(model, inputs, LABELS, losses, parts, **options)


def test_what_is_refused_of_a_model_can_be_left_out() -> None:
    model = built(bert)
    shared = {"bert.embeddings.position_embeddings.weight"}
    excluded = gradient_moments(model, WORDS, LABELS, losses, "", exclude=["*.position_embeddings"])
    skipped = gradient_moments(model, WORDS, LABELS, losses, "", unsupported="skip")
    every = {name for name, _ in model.named_parameters()}
    assert every - set(excluded) == every - set(skipped) == shared
    tied = built(lambda: transformers.GPT2LMHeadModel(gpt2().config))
    names = GradientMoments(tied, exclude=["transformer.wte", "lm_head"]).names
    assert "transformer.wpe.weight" in names
    assert "transformer.wte.weight" not in names
    watched = GradientMoments(tied, unsupported="skip")
    assert set(watched.names) == set(names)
    assert set(watched.skipped) == {"transformer.wte", "lm_head"}


@pytest.mark.parametrize("inputs", [dict(WORDS), transformers.BatchEncoding(WORDS)])
def test_batches_of_transformers_are_handed_over_by_name(inputs: Any) -> None:
    model = built(bert)
    found = gradient_moments(model, inputs, LABELS, losses, ["classifier"])
    ids, mask = WORDS.values()
    in_order = gradient_moments(model, (ids, mask), LABELS, losses, ["classifier"])
    for name, own in found.items():
        assert torch.equal(own.mean, in_order[name].mean)


def test_a_model_that_takes_a_mapping_gets_it() -> None:
    class Takes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(6, 3).double()

        def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
            return self.line(batch["vectors"])

    found = gradient_moments(Takes(), {"vectors": VECTORS}, LABELS, losses, "")
    assert found["line.weight"].samples == SAMPLES
