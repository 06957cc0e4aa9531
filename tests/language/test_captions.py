import hashlib
import io
import json
import re
import shutil
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import Tokenizer
from transformers import AutoModel

from rectify.language import captions
from rectify.language.captions import Procedure, caption_features
from rectify.runtime import generator
from tests.helpers.tiny_checkpoints import (
    EVERY_FAMILY,
    FAMILIES,
    LAYERS,
    WIDTH,
    error_of,
    made_checkpoint,
    rewritten,
    sharded,
)

CAPTIONS = [
    *("greek small letter alpha", "digit one", "a", "digit two", "cyrillic capital letter be"),
    *("x y", "digit six", "bcd"),
]
LAST_NORMED = Procedure(embedding=True, final_norm=True)


@pytest.fixture(params=EVERY_FAMILY)
def any_checkpoint(request, tmp_path):
    return made_checkpoint(tmp_path / "tiny", **FAMILIES[request.param])


@pytest.fixture
def checkpoint(tmp_path):
    return made_checkpoint(tmp_path / "tiny", **FAMILIES["llama"])


@pytest.fixture
def in_pieces(tmp_path):
    """A LLaMA that has SentencePiece's tokenizer alone, as OpenLLaMA's."""
    folder = made_checkpoint(tmp_path / "pieces", **FAMILIES["llama"], vocab_size=300)
    (folder / "tokenizer.json").unlink()
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    pieces = {"model_type": "bpe", "byte_fallback": True, "vocab_size": 300, "minloglevel": 2}
    model = io.BytesIO()
    SentencePieceTrainer.train(sentence_iterator=iter(CAPTIONS), model_writer=model, **pieces)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    return folder


def reference_features(folder: Path, captions: list[str]) -> torch.Tensor:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return hidden_means(folder, [tokenizer.encode(caption).ids for caption in captions])


def hidden_means(folder: Path, rows: list[list[int]]) -> torch.Tensor:
    """Hidden states of the whole model, averaged, by caption; those of the last layer by a hook."""
    model = AutoModel.from_pretrained(folder).eval()
    blocks = getattr(model, "decoder", model)
    blocks = blocks.layers if hasattr(blocks, "layers") else blocks.h
    last, means = [], []
    blocks[-1].register_forward_hook(lambda module, inputs, output: last.append(output))
    for row in rows:
        with torch.no_grad():
            states = model(torch.tensor([row]), output_hidden_states=True).hidden_states[1:-1]
        ended = last.pop()
        ended = ended[0] if isinstance(ended, tuple) else ended
        means.append(torch.stack([state[0].mean(0) for state in (*states, ended)]))
    return torch.stack(means, dim=1)


def test_an_untrained_twin_is_the_model_with_weights_that_are_drawn(any_checkpoint, tmp_path):
    """By hand: a copy of the folder in which every tensor is drawn anew."""
    twin = tmp_path / "twin"
    shutil.copytree(any_checkpoint, twin)
    tensors = load_file(twin / "model.safetensors")
    family = json.loads((twin / "config.json").read_text())["model_type"]
    stem = r"^(?:model\.|decoder\.|transformer\.|gpt_neox\.)*"
    norms = r"(?:norm|ln_f|final_layer_?norm)\."
    tables = r"(?:embed_tokens|wte|word_embeddings|embed_in)\."
    for name, tensor in tensors.items():
        bare = re.sub(stem, "", name)
        part = "before the layers"
        if layer := re.match(r"(?:layers|h)\.(\d+)\.", bare):
            part, bare = f"layer {layer[1]}", bare[layer.end() :]
        elif end := re.match(norms, bare):
            part, bare = "norm", bare[end.end() :]
        elif re.match(tables, bare):
            part = "table"
        unit = 0.0 if family.startswith("gemma") else 1.0
        if tensor.ndim == 1:
            tensors[name] = torch.full_like(tensor, unit if name.endswith("weight") else 0.0)
        else:
            draws = generator(5, "untrained", part, bare)
            tensors[name] = torch.empty(tensor.shape)
            torch.nn.init.trunc_normal_(tensors[name], std=0.02, generator=draws)
    save_file(tensors, twin / "model.safetensors")
    found, _ = caption_features(any_checkpoint, CAPTIONS, 4, LAST_NORMED, untrained=5)
    expected, _ = caption_features(twin, CAPTIONS, 4, LAST_NORMED)
    assert torch.equal(found, expected)
    other, _ = caption_features(any_checkpoint, CAPTIONS, 4, LAST_NORMED, untrained=6)
    assert not torch.allclose(found, other)


def test_features_are_the_mean_hidden_states_of_the_whole_model(any_checkpoint):
    expected = reference_features(any_checkpoint, CAPTIONS)
    for batch_size in (1, 2, 8):
        features, _ = caption_features(any_checkpoint, CAPTIONS, batch_size)
        assert features.shape == (LAYERS, len(CAPTIONS), WIDTH)
        torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)


SHORT, LONG = [1, 2, 3, 4], [5, 5, 5, 5]  # for each angle, of short and of long texts
OLD_POSITIONS = {
    "linear": ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}),
    "dynamic": ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}),
    "yarn": (
        "mistral",
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}, "max_position_embeddings": 64},
    ),
    "another base": ("qwen2", {"rope_theta": 100.0}),
    "a part of each head": ("gpt-neox", {"rotary_pct": 0.5, "rotary_emb_base": 50}),
    "a half of each head": ("stablelm", {"partial_rotary_factor": 0.5, "rope_theta": 50.0}),
    "long": (
        "phi 3",
        {
            "rope_scaling": {
                "type": "longrope",
                "short_factor": [1, 2, 3, 4],
                "long_factor": [5] * 4,
            },
            "original_max_position_embeddings": 64,
        },
    ),
}


@pytest.mark.parametrize("kind", OLD_POSITIONS)
def test_positions_as_older_settings_tell_them_are_those_of_the_whole_model(tmp_path, kind):
    family, changes = OLD_POSITIONS[kind]
    folder = made_checkpoint(tmp_path / "tiny", **FAMILIES[family])
    plain, _ = caption_features(folder, CAPTIONS, 4)
    path = folder / "config.json"
    settings = json.loads(path.read_text())
    del settings["rope_parameters"]
    path.write_text(json.dumps(settings | changes))
    expected = reference_features(folder, CAPTIONS)
    features, _ = caption_features(folder, CAPTIONS, 4)
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)
    assert kind == "dynamic" or not torch.allclose(features, plain)  # which begins with long texts


@pytest.mark.parametrize("settings", [{}, {"add_bos_token": False, "add_eos_token": True}])
def test_a_tokenizer_of_sentencepiece_alone_gives_its_own_tokens(in_pieces, settings):
    texts = [*CAPTIONS, "a  cat ", " \ufb01ne \u00bd", "zebra\tquokka", "<s> a"]
    pieces = SentencePieceProcessor(model_file=str(in_pieces / "tokenizer.model"))
    rows = [[pieces.bos_id(), *pieces.encode(text)] for text in texts]
    if settings:
        (in_pieces / "tokenizer_config.json").write_text(json.dumps(settings))
        rows = [[*row[1:], pieces.eos_id()] for row in rows]
    features, facts = caption_features(in_pieces, texts, 4)
    assert facts.sha256["tokens"] == hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    expected = hidden_means(in_pieces, rows)
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)


def test_a_tokenizer_json_goes_before_sentencepiece(in_pieces, checkpoint):
    _, facts = caption_features(checkpoint, CAPTIONS, 4)
    (checkpoint / "tokenizer.model").write_bytes((in_pieces / "tokenizer.model").read_bytes())
    assert caption_features(checkpoint, CAPTIONS, 4)[1] == facts


def test_the_order_of_the_captions_changes_no_bit(any_checkpoint):
    features, _ = caption_features(any_checkpoint, CAPTIONS, 1)
    turned, _ = caption_features(any_checkpoint, CAPTIONS[::-1], 1)
    assert torch.equal(turned.flip(1), features)


def test_shards_and_pickles_give_the_same_bits(checkpoint, tmp_path):
    whole, facts = caption_features(checkpoint, CAPTIONS, 4)
    pickled = made_checkpoint(tmp_path / "pickled", **FAMILIES["llama"])
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    for folder in (sharded(checkpoint), pickled):
        features, again = caption_features(folder, CAPTIONS, 4)
        assert torch.equal(features, whole)
        assert again.sha256["weights"] == facts.sha256["weights"]


def test_half_precision_is_computed_in_float32(checkpoint):
    path = checkpoint / "model.safetensors"
    halves = {name: tensor.bfloat16() for name, tensor in load_file(path).items()}
    save_file(halves, path)
    features, _ = caption_features(checkpoint, CAPTIONS, 4)
    save_file({name: tensor.float() for name, tensor in halves.items()}, path)
    assert torch.equal(features, caption_features(checkpoint, CAPTIONS, 4)[0])


def test_what_was_read_is_told_apart(checkpoint):
    (checkpoint / "fetched.json").write_text('{"commit": "0123abcd"}')
    _, first = caption_features(checkpoint, CAPTIONS, 4)
    assert first.revision == "0123abcd"
    _, other = caption_features(checkpoint, CAPTIONS[1:], 4)
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["model.layers.2.mlp.up_proj.weight"][0, 0] += 1
    tensors["model.norm.weight"] += 1  # not read
    save_file(tensors, checkpoint / "model.safetensors")
    _, changed = caption_features(checkpoint, CAPTIONS, 4)
    differ = {
        name: (first.sha256[name] != other.sha256[name], first.sha256[name] != changed.sha256[name])
        for name in first.sha256
    }  # fmt: skip
    assert differ == {
        "config": (False, False), "weights": (False, True), "tokens": (True, False)
    }  # fmt: skip


def test_the_final_norm_and_the_head_are_not_read(any_checkpoint):
    expected, facts = caption_features(any_checkpoint, CAPTIONS, 4)
    path = any_checkpoint / "model.safetensors"
    kept = {
        name: tensor
        for name, tensor in load_file(path).items()
        if re.search(r"\.\d+\.", name)
        or not re.search(r"lm_head|embed_out|model\.norm|ln_f|final_layer_?norm|project_out", name)
    }
    save_file(kept, path)
    features, again = caption_features(any_checkpoint, CAPTIONS, 4)
    assert torch.equal(features, expected)
    assert again == facts


def test_a_layer_is_dropped_when_the_next_is_there(tmp_path, monkeypatch):
    alive, most = [], []
    with_weights = captions._with_weights

    def watched(module, weights):
        module = with_weights(module, weights)
        alive.append(weakref.ref(module))
        most.append(sum(layer() is not None for layer in alive[1:]))  # the first is no layer
        return module

    monkeypatch.setattr(captions, "_with_weights", watched)
    folder = made_checkpoint(tmp_path / "deep", **FAMILIES["llama"] | {"num_hidden_layers": 6})
    caption_features(folder, CAPTIONS, 4)
    assert most == [0, 1, 2, 2, 2, 2, 2]


# --- errors, one line each ---


@pytest.mark.parametrize("kept", [0, 5, 2000, -1])
def test_a_truncated_file_is_named(checkpoint, kept):
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    assert f"{file}: must be an intact file" in error_of(caption_features, checkpoint, CAPTIONS, 2)


def test_features_never_come_from_weights_that_were_not_in_the_file(checkpoint):
    rewritten(checkpoint, **{"mlp.up_proj.weight": None})
    message = error_of(caption_features, checkpoint, CAPTIONS, 2)
    assert "layer 1: tensor mlp.up_proj.weight must be (48, 32), got absent" in message


@pytest.mark.parametrize("name", ["embed_positions", "embed_tokens", "project_in"])
def test_a_missing_tensor_before_the_layers_is_named(tmp_path, name):
    family = "opt 350m, with the norm after and a narrow embedding"
    folder = made_checkpoint(tmp_path / "opt", **FAMILIES[family])
    tensors = load_file(folder / "model.safetensors")
    del tensors[f"model.decoder.{name}.weight"]
    save_file(tensors, folder / "model.safetensors")
    assert f"{folder}: tensor {name}.weight must be (" in error_of(
        caption_features, folder, CAPTIONS, 2
    )


def test_a_folder_without_config_or_tokenizer_is_refused(in_pieces, tmp_path):
    assert "got no config.json" in error_of(caption_features, tmp_path / "no", CAPTIONS, 2)
    (in_pieces / "tokenizer_config.json").unlink()
    assert "tokenizer_config.json: must exist" in error_of(caption_features, in_pieces, CAPTIONS, 2)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "qwen2"])
def test_a_folder_whose_tokenizer_has_no_vocabulary_is_refused(tmp_path, family):
    folder = made_checkpoint(tmp_path / family, **FAMILIES[family])
    (folder / "tokenizer.json").unlink()
    assert "tokenizer.json, tokenizer.model, vocab.json, got none. Get it, or convert" in error_of(
        caption_features, folder, CAPTIONS, 2
    )


@pytest.mark.parametrize("content", [b"", b"YQ== 0", "cut"])
def test_a_file_that_is_not_of_sentencepiece_is_named(in_pieces, content):
    file = in_pieces / "tokenizer.model"
    file.write_bytes(file.read_bytes()[:-1] if content == "cut" else content)
    message = error_of(caption_features, in_pieces, CAPTIONS, 2)
    assert message.startswith(f"{file}: must be SentencePiece's tokenizer of the model, got INTERN")


def test_metas_format_is_refused_since_its_rotary_pairs_lie_elsewhere(tmp_path):
    params = {"dim": 32, "n_heads": 4, "n_layers": 1, "norm_eps": 1e-5}
    (tmp_path / "params.json").write_text(json.dumps(params))
    weight = torch.ones(48, 32)
    torch.save({"layers.0.feed_forward.w1.weight": weight}, tmp_path / "consolidated.00.pth")
    message = error_of(caption_features, tmp_path, CAPTIONS, 2)
    assert "must be in Hugging Face format for features of captions" in message


def test_a_caption_longer_than_the_context_is_refused(tmp_path):
    folder = made_checkpoint(tmp_path / "opt", **FAMILIES["opt"], max_position_embeddings=8)
    message = error_of(caption_features, folder, ["a b", "a" * 9], 2)
    assert "a caption must have 1..8 tokens, got 10 for 'aaaaaaaaa'" in message


def test_the_tokenizer_of_a_larger_vocabulary_is_refused(tmp_path):
    folder = made_checkpoint(tmp_path / "small", **FAMILIES["llama"], vocab_size=12)
    message = error_of(caption_features, folder, CAPTIONS, 2)
    assert "tokens must lie in 0..11, got " in message


def every_state(folder: Path, rows: list[list[int]]) -> list[list[torch.Tensor]]:
    """Return all hidden states (tokens, dim) that transformers gives for each caption."""
    model = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        found = [model(torch.tensor([row]), output_hidden_states=True) for row in rows]
    return [[state[0] for state in outputs.hidden_states] for outputs in found]


def tokens_of(folder: Path) -> list[list[int]]:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [tokenizer.encode(caption).ids for caption in CAPTIONS]


def test_the_embedding_and_the_normed_last_layer_are_transformers_states(any_checkpoint):
    procedure = Procedure(embedding=True, final_norm=True)
    features, _ = caption_features(any_checkpoint, CAPTIONS, 3, procedure)
    plain, _ = caption_features(any_checkpoint, CAPTIONS, 3)
    assert features.shape == (LAYERS + 1, len(CAPTIONS), WIDTH)
    assert torch.equal(features[1:-1], plain[:-1])
    states = every_state(any_checkpoint, tokens_of(any_checkpoint))
    expected = torch.stack([state[0].mean(0) for state in states])
    torch.testing.assert_close(features[0], expected, rtol=1e-5, atol=1e-5)
    last = torch.stack([state[-1].mean(0) for state in states])
    if last.shape[1] == WIDTH:
        torch.testing.assert_close(features[-1], last, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(features[-1], plain[-1])
    else:  # OPT 350M has no final norm, and makes its last state narrow
        assert torch.equal(features[-1], plain[-1])


def test_the_first_token_can_be_left_out_of_the_mean(checkpoint):
    rows = tokens_of(checkpoint)
    longer = [(item, row) for item, row in enumerate(rows) if len(row) > 1]
    captions = [CAPTIONS[item] for item, _ in longer]
    features, _ = caption_features(checkpoint, captions, 3, Procedure(first_token=False))
    for place, states in enumerate(every_state(checkpoint, [row for _, row in longer])):
        expected = torch.stack([state[1:].mean(0) for state in states[1:-1]])
        torch.testing.assert_close(features[:-1, place], expected, rtol=1e-5, atol=1e-5)


def test_a_caption_of_one_token_has_nothing_without_it(checkpoint):
    captions = [*CAPTIONS, ""]  # the tokenizer begins with a token of its own
    assert caption_features(checkpoint, captions, 3)[0].shape[1] == len(captions)
    with pytest.raises(ValueError, match=r"a caption must have 2\.\..* tokens, got 1 for ''"):
        caption_features(checkpoint, captions, 3, Procedure(first_token=False))


def test_the_final_norm_is_told_apart(checkpoint):
    procedures = (Procedure(), Procedure(embedding=True), Procedure(final_norm=True))
    plain, embedded, normed = (
        caption_features(checkpoint, CAPTIONS, 3, one)[1].sha256["weights"] for one in procedures
    )
    assert plain == embedded != normed
