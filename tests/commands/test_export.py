"""The command export: plain timm loads the folder, and the card says what the files say."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file, save_file

from rectify.__main__ import main
from rectify.analysis.card import card
from rectify.analysis.collect import Results
from rectify.data.manifests import manifest
from rectify.data.sets import FileSet, ImageSet, load_set, save_files
from rectify.experiment.run import read_run
from rectify.results.declared import GSNR, SCORES
from rectify.results.files import write_json
from rectify.results.provenance import provenance
from rectify.results.tables import read_note, read_table
from rectify.tasks.contract import Machine
from rectify.tasks.image_classification.task import TASK
from rectify.training.models import entry_of, trained
from tests.helpers.training import CPU, evaluating, settings_of, training, write_set

pytestmark = pytest.mark.usefixtures("restored_runtime")

ROOT = Path(__file__).resolve().parents[2]
SEEDS = (0, 1, 2)
SHORT = {"epochs": 1, "warmup_epochs": 0}
PLAIN_TIMM = """
import sys

import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

logits = {}
for folder in sys.argv[1:]:
    model = timm.create_model(f"local-dir:{folder}/export", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    prepared = torch.stack([transform(Image.open(file)) for file in (f"{folder}/0.png",)])
    inputs = load_file(f"{folder}/inputs.safetensors")["inputs"]
    with torch.inference_mode():
        save_file({"logits": model(inputs), "prepared": prepared}, f"{folder}/timm.safetensors")
    assert model.pretrained_cfg["label_names"] == [f"class {number}" for number in range(5)]
    assert model.pretrained_cfg["license"] == "mit"
assert not [name for name in sys.modules if name.startswith("rectify")]
"""


def run_folder(folder: Path, settings: dict, seeds: tuple[int, ...], block: Path | None) -> Path:
    """Train and score a run in files as the workflow lays them; return its folder."""
    for seed in seeds:
        training(folder, settings, f"seed-{seed}", seed=seed, block=block)
        evaluating(folder, settings, f"seed-{seed}", seed=seed)
    language = {"name": "tiny", "title": "Tiny LLaMA"} if settings["language"] else None
    titles = {"data": {"name": "toy", "title": "Toys"}, "vision": {"name": "vit-s", "title": "ViT"}}
    labels = {"run": settings["run"], **titles, "language": language, "estimator": "plain"}
    write_json(folder / "labels.json", labels)
    return folder


@pytest.fixture(scope="module")
def trained_second_path(tmp_path_factory: pytest.TempPathFactory, block_file: Path) -> Path:
    """A run with a second loss path on grey images, with three seeds; only to be read."""
    folder, labels = tmp_path_factory.mktemp("auxiliary"), torch.arange(40) % 5
    pixels = torch.randint(256, (40, 1, 16, 16), generator=torch.Generator().manual_seed(0))
    names = tuple(f"class {number}" for number in range(5))
    sources = tuple(f"draw {item}" for item in range(40))
    write_set(folder / "data", ImageSet(pixels.to(torch.uint8), labels, names, sources))
    Image.fromarray(load_set(folder / "data", "test").images[0, 0].numpy()).save(folder / "0.png")
    return run_folder(folder, settings_of("auxiliary", training=SHORT), SEEDS, block_file)


@pytest.fixture(scope="module")
def trained_of_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vanilla run on colour images in files, which are resized and cropped; only to be read."""
    folder, draws = tmp_path_factory.mktemp("vanilla"), torch.Generator().manual_seed(0)
    for item in range(24):
        pixels = torch.randint(0, 256, (20 + item % 3, 24, 3), generator=draws, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{item}.png")
    items = [("test" if item % 3 == 0 else "train", item % 5) for item in range(24)]
    rows = [(*pair, f"class {pair[1]}", f"{item}.png") for item, pair in enumerate(items)]
    save_files(folder / "data", folder, manifest(rows), provenance())
    settings = settings_of(data={"channels": 3}, training=SHORT | {"crop": "resized"})
    return run_folder(folder, settings, (0,), None)


@pytest.fixture
def second_path(trained_second_path: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained_second_path, tmp_path / "auxiliary")


@pytest.fixture
def of_files(trained_of_files: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained_of_files, tmp_path / "vanilla")


def export(folder: Path, *words: str, seed: int = 0) -> int:
    places = ["--run", f"{folder}", "--data", f"{folder / 'data'}", "--output", f"{folder}/export"]
    return main(["export", *places, "--seed", f"{seed}", "--licence", "mit", *words])


LANGUAGE = ("--language-licence", "research only")


@pytest.mark.slow
def test_plain_timm_gives_the_same_logits_from_the_same_pictures(
    second_path: Path, of_files: Path
) -> None:
    assert export(second_path, *LANGUAGE, seed=1) == export(of_files) == 0
    expected = {}
    for folder, seed in ((second_path, 1), (of_files, 0)):
        settings = read_run(folder / "config.json")
        weights = folder / f"seed-{seed}" / "model.safetensors"
        model = trained(settings, TASK, None, seed, weights).eval()
        entry, items = entry_of(settings, TASK), load_set(folder / "data", "test")
        source = TASK.test_source(entry, items, settings.recipe, Machine(CPU))
        (batch,) = source.read(torch.arange(len(items)), len(items))
        save_file({"inputs": batch["inputs"]}, folder / "inputs.safetensors")
        with torch.inference_mode():
            expected[folder] = model(batch["inputs"]), batch["inputs"][:1]
        assert isinstance(items, FileSet) == (folder == of_files)
    words = [sys.executable, "-c", PLAIN_TIMM, *map(str, expected)]
    said = subprocess.run(words, capture_output=True, text=True, check=False, cwd=folder)
    assert said.returncode == 0, said.stderr[-2000:]
    for folder, (logits, prepared) in expected.items():
        given = load_file(folder / "timm.safetensors")
        assert torch.equal(given["logits"], logits)
        torch.testing.assert_close(given["prepared"], prepared, rtol=0, atol=1e-6)


def wilson(share: float, items: int) -> tuple[float, float]:
    """Return the interval by the formula of Wilson (1927)."""
    z = 1.959963984540054
    centre = (share + z**2 / (2 * items)) / (1 + z**2 / items)
    half = z / (1 + z**2 / items) * math.sqrt(
        share * (1 - share) / items + z**2 / (4 * items**2)
    )  # fmt: skip
    return centre - half, centre + half


@pytest.mark.slow
def test_the_card_has_the_numbers_of_the_files_and_their_intervals(second_path: Path) -> None:
    assert export(second_path, *LANGUAGE, "--seeds", "0", "1", "2", seed=1) == 0
    text = (second_path / "export" / "README.md").read_text()
    places = [second_path / f"seed-{seed}" for seed in (1, 0, 2)]
    tables = [read_table(SCORES, place / "scores.csv") for place in places]
    shares = [
        frame.query("set == 'test' and metric == 'accuracy' and k == 1")["value"].item()
        for frame in tables
    ]
    mean = sum(shares) / 3
    deviation = math.sqrt(sum((share - mean) ** 2 for share in shares) / 2)
    half = 4.302652729911275 * deviation / math.sqrt(3)  # Student's t, 2 degrees of freedom
    (low, high), numbers = wilson(shares[0], 16), [shares[0], mean]
    own, pooled = (f"{100 * value:.2f} %" for value in numbers)
    ends = [f"{100 * value:.2f} %" for value in (low, high, mean - half, mean + half)]
    row = f"| test | accuracy@1 | {own} | {ends[0]} to {ends[1]} | {pooled} |"
    assert f"{row} {ends[2]} to {ends[3]} |" in text
    corrupted = tables[0].query("set == 'c' and metric == 'accuracy' and k == 1")["value"].mean()
    assert f"| c | accuracy@1 | {100 * corrupted:.2f} % | – |" in text
    gsnr = [
        frame[frame["estimator"] == "debiased"]["gsnr"].mean()  # one epoch, as many blocks each
        for frame in (read_table(GSNR, place / "gsnr.csv") for place in places)
    ]
    assert f"| {gsnr[0]:.6g} | {sum(gsnr) / 3:.6g} |" in text
    facts = read_note(places[0] / "history.csv")["provenance"]["facts"]
    assert f"| SHA-256 of the layer | `{facts['block']['sha256']}` |" in text
    for said in ("Tiny LLaMA, layer 1", "seeds 1, 0, 2", "weights: mit.", "LLaMA: research only."):
        assert said in text


def test_the_hub_reads_the_card_s_head(second_path: Path) -> None:
    export(second_path, *LANGUAGE)
    head = ModelCard((second_path / "export" / "README.md").read_text()).data
    assert (head.license, head.library_name, head.pipeline_tag) == (
        "mit", "timm", "image-classification",
    )  # fmt: skip
    frame = read_table(SCORES, second_path / "seed-0" / "scores.csv")
    rows = frame[(frame["set"] == "test") & (frame["k"] > 0)]
    results = {result.metric_name: result.metric_value for result in head.eval_results}
    assert results == dict(zip(("accuracy@1", "accuracy@2"), rows["value"], strict=True))


def test_the_card_cites_the_paper_of_the_citation_file(of_files: Path) -> None:
    text = card(Results([of_files], [0]), licence="mit", language_licence=None)
    paper = yaml.safe_load((ROOT / "CITATION.cff").read_text())["preferred-citation"]
    names = (f"{one['family-names']}, {one['given-names']}" for one in paper["authors"])
    assert f"{{{' and '.join(names)}}}" in text
    assert f"{{{paper['title']}}}" in text
    assert f"{{{paper['year']}}}" in text
    assert "language model" not in text


@pytest.mark.parametrize("variant", ["insert", "residual"])
def test_a_model_with_its_layer_inside_is_refused_and_told_what_can_be_exported(
    second_path: Path, variant: str, capsys: pytest.CaptureFixture
) -> None:
    (second_path / "config.json").write_text(json.dumps(settings_of(variant)))
    assert export(second_path, *LANGUAGE) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"got variant {variant}, which needs the language model's layer" in line
    assert line.endswith("Export a vanilla or an auxiliary run.")
    assert not (second_path / "export").exists()


def test_a_task_that_plain_timm_does_not_know_is_refused(
    of_files: Path, capsys: pytest.CaptureFixture
) -> None:
    settings = settings_of() | {"task": "video_classification"}
    (of_files / "config.json").write_text(json.dumps(settings))
    assert export(of_files) == 2
    assert "got video_classification. Export a run of image_classif" in capsys.readouterr().err


def test_the_licence_of_a_language_model_is_there_where_it_took_part_and_only_there(
    second_path: Path, of_files: Path, capsys: pytest.CaptureFixture
) -> None:
    assert export(second_path) == export(of_files, *LANGUAGE) == 2
    missing, surplus = capsys.readouterr().err.splitlines()
    assert missing.endswith("with the licence of tiny, got none. Give --language-licence.")
    assert surplus.endswith("got research only. Leave out --language-licence.")
    drawn = settings_of("auxiliary", "adapter", training=SHORT)
    (second_path / "config.json").write_text(json.dumps(drawn))
    labels = json.loads((second_path / "labels.json").read_text())
    write_json(second_path / "labels.json", {**labels, "run": drawn["run"]})
    with pytest.raises(ValueError, match="must come with no licence of a model, got"):
        card(Results([second_path], [0]), licence="mit", language_licence="research only")
