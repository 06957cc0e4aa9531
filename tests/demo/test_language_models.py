import json
import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rectify.demo.language_models import character_tokenizer, pretrain, unigram_entropy
from rectify.language.block import load_block
from rectify.language.captions import caption_features
from rectify.language.weights import describe
from rectify.results.declared import PRETRAINING
from rectify.results.tables import read_note, read_table

NAMES = [
    f"{script} {case} letter {name}"
    for script in ("greek", "latin", "cyrillic", "coptic", "gothic")
    for case in ("small", "capital")
    for name in ("alpha", "beta", "gamma", "delta", "zeta", "theta", "kappa")
]
SETTINGS = {"layers": 2, "hidden": 32, "heads": 2, "batch_size": 8, "context": 32, "lr": 1e-2}
FILES = {
    *("config.json", "generation_config.json", "model.safetensors", "pretraining.csv"),
    *("pretraining.csv.json", "tokenizer.json", "tokenizer_config.json"),
}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pretrained(folder: Path, family: str = "llama", steps: int = 3, seed: int = 0, **changes):
    settings = {**SETTINGS, **changes}
    pretrain(folder, NAMES, language="tiny", family=family, steps=steps, seed=seed, **settings)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def counted_entropy(names: list[str]) -> float:
    counts = Counter(character for name in names for character in ["start", *name])
    total = sum(counts.values())
    return -sum(n / total * math.log(n / total) for n in counts.values())


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "opt"])
def test_the_loss_falls_far_below_the_unigram_entropy(tmp_path, family):
    folder = pretrained(tmp_path, family, steps=300, lr=5e-3)
    curve = read_table(PRETRAINING, folder / "pretraining.csv")
    first, last = curve.iloc[0], curve.iloc[-1]
    assert (first["step"], last["step"]) == (0, 300)
    assert first["validation_loss"] > counted_entropy(NAMES)
    assert last["train_loss"] < 0.5 * counted_entropy(NAMES)
    assert last["validation_loss"] < 0.8 * counted_entropy(NAMES)  # three names only


def test_unigram_entropy_agrees_with_a_counter(tmp_path):
    tokenizer = character_tokenizer(NAMES)
    stream = torch.tensor([token for row in tokenizer(NAMES)["input_ids"] for token in row])
    assert unigram_entropy(stream) == pytest.approx(counted_entropy(NAMES), rel=1e-12)
    facts = read_note(pretrained(tmp_path) / "pretraining.csv")["provenance"]["facts"]
    assert facts["unigram_entropy"] == pytest.approx(counted_entropy(NAMES), rel=1e-12)


def test_entropy_of_equal_shares_is_their_logarithm_and_of_one_token_zero():
    assert unigram_entropy(torch.tensor([0, 1, 2, 3])) == pytest.approx(math.log(4))
    assert unigram_entropy(torch.tensor([5, 5, 5])) == 0


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_the_same_seed_gives_the_same_bytes(tmp_path, family):
    one, two = (contents(pretrained(tmp_path / name, family)) for name in ("one", "two"))
    assert one == two


def test_another_seed_gives_other_weights_and_the_global_generator_is_left_alone(tmp_path):
    state = torch.get_rng_state()
    one, two = (contents(pretrained(tmp_path / str(seed), seed=seed)) for seed in (0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert one["model.safetensors"] != two["model.safetensors"]
    assert one["tokenizer.json"] == two["tokenizer.json"]


def test_no_steps_leave_the_model_untrained(tmp_path):
    curve = read_table(PRETRAINING, pretrained(tmp_path / "none", steps=0) / "pretraining.csv")
    assert curve["step"].tolist() == [0]
    trained = load_block(pretrained(tmp_path / "some"), 0).state_dict()
    untrained = load_block(tmp_path / "none", 0).state_dict()
    assert not torch.equal(
        trained["decoder.mlp.up_proj.weight"], untrained["decoder.mlp.up_proj.weight"]
    )
    assert untrained["decoder.input_layernorm.weight"].unique().tolist() == [1]


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_the_folder_is_an_ordinary_checkpoint(tmp_path, family):
    pretrained(tmp_path, family)
    assert set(contents(tmp_path)) == FILES
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.config.model_type == family
    assert tokenizer.decode(tokenizer("greek alpha")["input_ids"][1:]) == "greek alpha"
    assert tokenizer("a")["input_ids"][0] == model.config.bos_token_id == tokenizer.bos_token_id
    assert model.config.pad_token_id == tokenizer.pad_token_id
    assert tokenizer("!")["input_ids"][1] == tokenizer.unk_token_id
    facts = read_note(tmp_path / "pretraining.csv")["provenance"]["facts"]
    described = describe(tmp_path)
    assert facts["parameters"] == described.parameters == model.num_parameters()
    assert facts["block_parameters"] == described.block_parameters
    assert caption_features(tmp_path, NAMES[:3], 2)[0].shape == (2, 3, 32)


def test_the_last_loss_is_the_models_loss_on_held_out_names(tmp_path):
    loss = pretrain(tmp_path, NAMES, language="tiny", family="llama", steps=60, seed=0, **SETTINGS)
    facts = read_note(tmp_path / "pretraining.csv")["provenance"]["facts"]
    assert facts["validation_loss"] == loss
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(tmp_path),
        AutoTokenizer.from_pretrained(tmp_path),
    )
    ids = tokenizer("".join(NAMES[:1]), return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert model(ids, labels=ids).loss.item() < counted_entropy(NAMES)


def test_a_kill_while_saving_leaves_no_folder_that_looks_whole(tmp_path, monkeypatch):
    pretrained(tmp_path)

    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("rectify.demo.language_models.shutil.copyfile", killed)
    with pytest.raises(KeyboardInterrupt):
        pretrained(tmp_path, seed=1)
    with pytest.raises(ValueError, match=r"got no config\.json"):
        load_block(tmp_path, 0)
    assert set(contents(tmp_path)) == FILES - {"config.json"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "whale"}, "family must be one of llama, opt, got 'whale'"),
        ({"heads": 5}, "hidden must be a multiple of twice the heads, got 32 and 5 heads"),
        ({"steps": -1}, "steps must be at least 0"),
        ({"context": 0}, "batch_size and context at least 1, got 3, 8 and 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        pretrained(tmp_path, **changes)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_too_little_text_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least 20 names are needed, got 3"):
        pretrain(tmp_path, NAMES[:3], language="tiny", family="opt", steps=1, seed=0, **SETTINGS)


def test_the_configuration_says_what_was_asked_for(tmp_path):
    config = json.loads((pretrained(tmp_path, "opt") / "config.json").read_text())
    asked = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    assert {key: config[key] for key in asked} == asked
    assert (config["ffn_dim"], config["max_position_embeddings"], config["dropout"]) == (128, 32, 0)
