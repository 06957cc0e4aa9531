import argparse
import json
from hashlib import sha256

import pytest
import torch
from safetensors.torch import load_file

from rectify.commands import extract_block, language_features, pretrain
from rectify.data.manifests import manifest, write_listing
from rectify.language.block import load_block, read_block
from rectify.language.captions import caption_features
from rectify.results.provenance import provenance
from rectify.trunks.features import load_features

SETTINGS = {"family": "llama", "layers": 2, "hidden": 16, "heads": 2, "steps": 2, "context": 16}


def run(command, *words: str) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    command.run(parser.parse_args(words))


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def small_corpus(monkeypatch):
    names = [f"letter {first}{second}" for first in "abcde" for second in "vwxyz"]
    monkeypatch.setattr("rectify.demo.pairs.names_corpus", lambda: names)


def pretrained(folder, **changes) -> None:
    settings = json.dumps({**SETTINGS, **changes})
    words = ("--language", "tiny", "--settings", settings, "--seed", "0", "--output", str(folder))
    run(pretrain, *words)


@pytest.mark.usefixtures("one_thread")
def test_a_pretrained_model_gives_its_blocks(tmp_path):
    pretrained(tmp_path / "tiny")
    file = tmp_path / "layer-1.safetensors"
    run(
        extract_block,
        *("--checkpoint", str(tmp_path / "tiny"), "--layer", "1", "--output", str(file)),
    )
    block = read_block(file)
    assert (block.language, block.layer, block.hidden) == ("tiny", 1, 16)
    tokens = torch.ones(1, 3, 16)
    assert torch.equal(block(tokens), load_block(tmp_path / "tiny", 1)(tokens))
    words = ("--checkpoint", str(tmp_path / "tiny"), "--layer", "1", "--name", "mine")
    run(extract_block, *words, "--output", str(file))
    assert (read_block(file).language, read_block(file).layer) == ("mine", 1)


def test_unknown_and_missing_settings_are_named_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="must be known, got 'width' at --settings") as caught:
        pretrained(tmp_path / "tiny", width=8)
    assert "\n" not in str(caught.value)
    words = ("--language", "tiny", "--settings", "{}", "--seed", "0", "--output", "tiny")
    with pytest.raises(ValueError, match="--settings must be complete, got no family"):
        run(pretrain, *words)
    assert not (tmp_path / "tiny").exists()


@pytest.mark.usefixtures("one_thread")
def test_a_layer_that_is_not_there_writes_nothing(tmp_path):
    pretrained(tmp_path / "tiny")
    file = tmp_path / "layer-2.safetensors"
    words = ("--checkpoint", str(tmp_path / "tiny"), "--layer", "2", "--output", str(file))
    with pytest.raises(ValueError, match=r"layer must lie in 0\.\.1, got 2"):
        run(extract_block, *words)
    assert not file.exists()


@pytest.mark.usefixtures("one_thread")
def test_features_of_the_captions_come_with_what_they_were_computed_from(tmp_path):
    folder, captions = tmp_path / "tiny", ["letter av", "letter bw", "letter"]
    pretrained(folder)
    (folder / "fetched.json").write_text('{"commit": "0123abcd"}')
    listing = manifest([("pairs", -1, caption, "drawn") for caption in captions])
    write_listing(tmp_path / "pairs", listing, provenance(0))
    run(
        language_features,
        *("--language", "tiny-llama", "--checkpoint", str(folder)),
        *("--pairs", str(tmp_path / "pairs"), "--batch-size", "2", "--threads", "1"),
        *("--output", str(tmp_path / "features.safetensors")),
    )
    layers, facts = load_features(tmp_path / "features.safetensors")
    expected, origin = caption_features(folder, captions, 2)
    assert torch.equal(layers, expected)
    parameters = json.loads((folder / "pretraining.csv.json").read_text())["provenance"]["facts"]
    assert facts == {
        "procedure": {"embedding": False, "final_norm": False, "first_token": True},
        "first_layer": 0,
        "pairs": "pairs",
        "pairs_sha256": sha256((tmp_path / "pairs" / "manifest.csv").read_bytes()).hexdigest(),
        "language": "tiny-llama",
        "language_parameters": parameters["parameters"],
        "language_untrained": None,
        "language_revision": "0123abcd",
        "language_sha256": origin.sha256,
    }


@pytest.mark.usefixtures("one_thread")
def test_a_model_that_cannot_be_described_is_refused_before_anything_is_computed(
    tmp_path, monkeypatch
):
    folder = tmp_path / "tiny"
    pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    torch.save({**tensors, "global_steps": 3}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    listing = manifest([("pairs", -1, "letter av", "drawn")])
    write_listing(tmp_path / "pairs", listing, provenance(0))
    monkeypatch.setattr("rectify.language.captions.caption_features", None)
    with pytest.raises(ValueError, match=r"got global_steps, of type int\. Save its"):
        run(
            language_features,
            *("--language", "tiny", "--checkpoint", str(folder), "--threads", "1"),
            *("--pairs", str(tmp_path / "pairs"), "--batch-size", "2"),
            *("--output", str(tmp_path / "features.safetensors")),
        )
