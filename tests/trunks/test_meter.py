"""METER: its counts, its layers written out, its parts, its blocks' moments, where it starts."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, gelu, layer_norm, linear
from transformers import (
    CLIPConfig,
    CLIPModel,
    LlamaConfig,
    RobertaForMaskedLM,
)

from rectify.data.texts import PADDING
from rectify.gsnr.moments import GradientMoments
from rectify.language.block import empty_block
from rectify.rectified import auxiliary, insert
from rectify.runtime import generator
from rectify.trunks.kinds import as_trunk
from rectify.trunks.meter import Meter, Streams, packed
from rectify.trunks.meter_starts import load_clip, load_roberta
from rectify.trunks.trunk import Tokens, Trunk
from tests.helpers.moments import assert_close, of_single_samples

SIZES = {
    "dim": 8,
    "depth": 2,
    "heads": 2,
    "patch_size": 4,
    "image_dim": 12,
    "image_depth": 2,
    "image_heads": 2,
    "text_dim": 16,
    "text_depth": 1,
    "text_heads": 2,
    "positions": 10,
}
ANSWERS = 5
REST = {"answers": ANSWERS, "words": 20, "image_size": 8}


def make(**changes: object) -> Meter:
    torch.manual_seed(0)
    model = Meter.of(SIZES | changes, **REST).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():  # ones and zeros hide mistakes
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(1)
    words = torch.randint(2, 20, (3, 6), generator=draws)
    words[0, 4:] = words[1, 2:] = PADDING
    images = torch.randn(3, 3, 8, 8, generator=draws, dtype=torch.float64)
    return {"images": images, "words": words}


def count(part: nn.Module) -> int:
    return sum(one.numel() for one in part.parameters())


def test_the_published_sizes_have_the_published_parameters() -> None:
    with torch.device("meta"):
        model = Meter.of({}, answers=3129)
    assert count(model) == 327_381_561
    assert (count(model.image), count(model.text)) == (80_368_128, 124_055_040)
    assert count(model.layers) == 12 * 9_451_776
    config = LlamaConfig(hidden_size=4096, intermediate_size=11008, num_attention_heads=32)
    rectified = insert(model, empty_block(config, "llama-7b"), "end")
    assert count(rectified) == 536_056_377
    assert sum(p.numel() for p in rectified.bridge.parameters() if p.requires_grad) == 6_291_456


def test_it_is_a_trunk_and_runs_in_parts(inputs: dict[str, Tensor]) -> None:
    model = make()
    assert isinstance(model, Trunk)
    assert as_trunk(model) is model
    tokens = model.embed(inputs)
    assert tokens.values.shape == (3, 5, 8)  # class token and four patches
    for block in range(2):
        tokens = model.run(tokens, block, block + 1)
    assert torch.equal(model.decode(tokens), model(inputs))
    assert model.representation(tokens).shape == (3, 16)


def normed(values: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    weights = w[f"{name}.weight"], w[f"{name}.bias"]
    return layer_norm(values, values.shape[-1:], *weights, eps=1e-12)


def straight(values: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    return linear(values, w[f"{name}.weight"], w[f"{name}.bias"])


def attended(own: Tensor, others: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    """One stream ``(tokens, dim)`` after it attended to all of ``others``, head by head."""
    query = straight(own, w, f"{name}.self.query")
    key, value = (straight(others, w, f"{name}.self.{one}") for one in ("key", "value"))
    heads = []
    for q, k, v in zip(*(one.chunk(2, 1) for one in (query, key, value)), strict=True):
        heads.append((q @ k.T / math.sqrt(q.shape[1])).softmax(1) @ v)
    mixed = straight(torch.cat(heads, 1), w, f"{name}.output.dense")
    return normed(own + mixed, w, f"{name}.output.LayerNorm")


def layer_written_out(own: Tensor, other: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    own = attended(own, own, w, f"{name}.attention")
    own = attended(own, other, w, f"{name}.crossattention")
    inner = straight(
        gelu(straight(own, w, f"{name}.intermediate.dense")), w, f"{name}.output.dense"
    )
    return normed(own + inner, w, f"{name}.output.LayerNorm")


def test_its_fusion_and_head_are_those_written_out(inputs: dict[str, Tensor]) -> None:
    """Of each sample without its padding: no token of the image or question is hidden."""
    model = make()
    w, outputs, tokens = model.state_dict(), model(inputs), model.embed(inputs)
    for sample, hidden in enumerate(tokens.context.padding):
        image, words = tokens.values[sample], tokens.context.words[sample][~hidden]
        for layer in range(2):
            seen = layer_written_out(image, words, w, f"layers.{layer}.image")
            words = layer_written_out(words, image, w, f"layers.{layer}.text")
            image = seen
        pooled = [straight(words[0], w, "head.text_pooler").tanh()]
        pooled.append(straight(image[0], w, "head.image_pooler").tanh())
        inner = straight(torch.cat(pooled), w, "head.hidden")
        inner = layer_norm(inner, inner.shape, w["head.norm.weight"], w["head.norm.bias"])
        torch.testing.assert_close(outputs[sample], straight(gelu(inner), w, "head.output"))


def test_padding_of_a_question_changes_nothing(inputs: dict[str, Tensor]) -> None:
    model = make()
    whole = model(inputs)
    for sample, words in enumerate(inputs["words"]):
        alone = {
            "images": inputs["images"][sample, None],
            "words": words[words != PADDING][None],
        }
        torch.testing.assert_close(model(alone)[0], whole[sample])


def test_both_variants_train_and_auxiliary_is_the_plain_model_at_test(
    inputs: dict[str, Tensor],
) -> None:
    plain, layer = make()(inputs), nn.Identity()
    layer.hidden = 16
    second = auxiliary(make(), layer, generator=generator(0)).double()
    assert torch.equal(second.eval()(inputs), plain)
    main, other = second.train()(inputs)
    assert main.shape == other.shape == (3, ANSWERS)
    inserted = insert(make(), layer, "end", generator=generator(0)).double().eval()
    tokens = inserted.trunk.run(inserted.trunk.embed(inputs), 0, 2)
    bridged = Tokens(inserted.bridge(tokens.values), None, tokens.context)  # the image's tokens
    assert torch.equal(inserted(inputs), inserted.trunk.decode(bridged))
    assert not torch.equal(inserted(inputs), plain)


class Mixed(nn.Module):
    """A layer in which each token sees the mean of those that are not hidden."""

    hidden = 8

    def forward(self, tokens: Tensor, padding: Tensor | None = None) -> Tensor:
        shown = torch.ones_like(tokens[:, :, :1]) if padding is None else (~padding)[..., None]
        mean = (tokens * shown).sum(1, keepdim=True) / shown.sum(1, keepdim=True)
        return tokens.square() + 3 * mean


@pytest.mark.parametrize("position", [1, 2])
@pytest.mark.parametrize("stream", ["image", "text", "both", "joint"])
def test_the_layer_sees_the_chosen_stream_sample_by_sample(
    inputs: dict[str, Tensor], stream: str, position: int
) -> None:
    """Written out with the streams cut to what they have; alone, the model has no other outputs."""
    plain = make()
    chosen = make(stream=stream)
    assert torch.equal(chosen(inputs), plain(inputs))
    assert torch.equal(chosen.representation(chosen.embed(inputs)),
                       plain.representation(plain.embed(inputs)))  # fmt: skip
    model = insert(chosen, Mixed(), position, generator=generator(0), final_norm="none")
    model = model.double().eval()
    before, bridge = plain.run(plain.embed(inputs), 0, position), model.bridge
    for sample, hidden in enumerate(before.context.padding):
        image, words = before.values[sample][None], before.context.words[sample][~hidden][None]
        if stream == "joint":
            image, words = bridge(torch.cat([image, words], 1)).split([5, words.shape[1]], 1)
        else:
            image = image if stream == "text" else bridge(image)
            words = words if stream == "image" else bridge(words)
        streams = Streams(image, words, torch.zeros_like(words[:, :, 0], dtype=torch.bool))
        after = plain.run(packed(streams, "image"), position, 2)
        torch.testing.assert_close(model(inputs)[sample, None], plain.decode(after))


def test_the_moments_of_its_blocks_are_those_of_single_samples(inputs: dict[str, Tensor]) -> None:
    model = make()
    targets = torch.rand(3, ANSWERS, generator=torch.Generator().manual_seed(2)).double()

    def losses(chosen: slice) -> Tensor:
        outputs = model({name: values[chosen] for name, values in inputs.items()})
        one = binary_cross_entropy_with_logits(outputs, targets[chosen], reduction="none")
        return one.sum(1)

    watched = GradientMoments({"blocks": model.layers})
    with watched:
        losses(slice(None)).mean().backward()
    expected = of_single_samples(losses, model.layers, 3)
    assert_close(watched.moments(), expected, 1e-10)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints as the hub has them, tiny: all of CLIP, and RoBERTa with its head."""
    folder = tmp_path_factory.mktemp("hub")
    torch.manual_seed(3)
    vision = {
        "hidden_size": 12,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 8,
        "patch_size": 4,
    }
    text = {**vision, "vocab_size": 20, "max_position_embeddings": 8}
    CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=8)).save_pretrained(
        folder / "clip"
    )
    RobertaForMaskedLM(make().text.config).save_pretrained(folder / "roberta")
    return {"clip": folder / "clip", "roberta": folder / "roberta"}


def test_it_starts_from_the_folders_of_clip_and_roberta(
    folders: dict[str, Path], inputs: dict[str, Tensor]
) -> None:
    model = make()
    load_clip(model, folders["clip"])
    load_roberta(model, folders["roberta"])
    model.float()
    clip = CLIPModel.from_pretrained(folders["clip"]).eval().vision_model
    images = inputs["images"].float()
    second = clip(images, output_hidden_states=True).hidden_states[2]  # the third is left out
    torch.testing.assert_close(model.image.forward_features(images), clip.post_layernorm(second))
    roberta = RobertaForMaskedLM.from_pretrained(folders["roberta"]).eval().roberta
    mask = (inputs["words"] != PADDING).long()
    expected = roberta(inputs["words"], attention_mask=mask).last_hidden_state
    found = model.text(inputs["words"], attention_mask=mask).last_hidden_state
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("clip", "vision_model.encoder.layers.1.self_attn.k_proj.bias"),
        ("clip", "vision_model.post_layernorm.weight"),
        ("roberta", "roberta.encoder.layer.0.output.dense.bias"),
    ],
)
def test_a_folder_without_a_tensor_is_refused(
    folders: dict[str, Path], tmp_path: Path, kind: str, name: str
) -> None:
    tensors = load_file(folders[kind] / "model.safetensors")
    assert tensors.pop(name) is not None
    save_file(tensors, tmp_path / "model.safetensors")
    load = load_clip if kind == "clip" else load_roberta
    before = make()
    with pytest.raises(ValueError, match="absent") as caught:
        load(before, tmp_path)
    assert "\n" not in str(caught.value)
    assert torch.equal(before.head.output.weight, make().head.output.weight)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"width": 3}, "every key must be known, got 'width'"),
        ({"text_dim": 10}, "text_dim of a METER must be a multiple of text_heads 12, got 10"),
        (
            {"patch_size": 100},
            "image size of a METER must be .* patch_size 100, got 224",
        ),
        ({"stream": "words"}, "stream must .*'image', 'text', 'both' or 'joint', got 'words'"),
    ],
)
def test_sizes_that_cannot_be_are_one_line(overrides: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        Meter.of(overrides, answers=2)
    assert "\n" not in str(caught.value)


def test_a_question_that_is_too_long_is_one_line(inputs: dict[str, Tensor]) -> None:
    longer = {**inputs, "words": torch.full((3, 9), 2)}
    with pytest.raises(ValueError, match="at most 8 tokens, got 9"):
        make()(longer)
    assert make()({**inputs, "words": torch.full((3, 8), 2)}).isfinite().all()
