"""The cost table: each plain ViT once, the paper's numbers next to its own model only."""

import pytest

from rectify.experiment.grid import cost_settings, read
from rectify.targets.cost import Settings, table
from tests.helpers.configs import PAPER
from tests.helpers.synthetic import costs, results_of

ASKED = Settings(data="a", visions="v", languages="l")


def test_the_table_has_each_plain_vit_once_and_then_its_blocks() -> None:
    cells = table(results_of(costs=costs()), ASKED)
    assert list(dict.fromkeys(cells["row"]))[:7] == [
        "ViT-S", "ViT-S + LLaMA, insert", "ViT-S + OPT, insert",
        "ViT-S + LLaMA, residual", "ViT-S + OPT, residual",
        "ViT-S + LLaMA, auxiliary", "ViT-S + OPT, auxiliary",
    ]  # fmt: skip
    assert len(cells) == 14 * 11
    assert set(cells["scale"]) == {1e6}
    assert (cells["mean"] == 2).all()
    assert (cells["seeds"] == 0).all()  # nothing is trained for it
    assert cells["paper"].isna().all()


def test_the_paper_s_costs_are_next_to_its_own_model_only() -> None:
    own = costs(flops=8.5013e9)
    own.loc[own["variant"] == "vanilla", "parameters"] = 22_050_664
    own.loc[own["variant"] == "insert", "parameters"] = 227_579_752
    of_paper = own[(own["vision_title"] == "ViT-S") & (own["language_title"] == "LLaMA")]
    cells = table(results_of(costs=of_paper), ASKED)
    compared = cells[cells["paper"].notna()]
    assert set(compared["row"]) == {"ViT-S", "ViT-S + LLaMA, insert"}
    values = compared.set_index(["row", "group", "column"])["paper"]
    assert values["ViT-S", "parameters", "training"] == 22.05
    assert values["ViT-S + LLaMA, insert", "parameters", "training"] == 227.58
    assert values["ViT-S", "FLOPs per image", "paper's count"] == 8.5
    assert values["ViT-S", "images per second", "test"] == 75e-6


def test_the_cost_is_that_of_the_set_s_items() -> None:
    def settings(data: str, vision: str) -> dict[str, object]:
        targets = {"cost": {"data": data, "visions": vision, "languages": "llama-7b"}}
        config = {name: value for name, value in PAPER.items() if name != "pages"}
        return cost_settings(read({**config, "targets": targets}), vision, "llama-7b")

    clouds, clips = settings("scanobjectnn-hardest", "point-bert"), settings("ssv2", "vit-s")
    scenes = settings("argoverse", "mmtransformer")
    assert (clouds["trunk"]["timm"], clouds["entry"]["points"]) == ("none", 1024)
    assert (clips["entry"]["frames"], clips["trunk"]["family"]) == (16, "videomae")
    assert clips["trunk"]["start"] is None
    assert (scenes["task"], scenes["trunk"]["family"]) == ("motion_forecasting", "mmtransformer")
    with pytest.raises(ValueError, match=r"cost\.data: must be a name under data"):
        settings("nothing", "vectornet")


def test_without_peak_memory_there_are_no_cells_for_it() -> None:
    nothing = float("nan")
    cells = table(
        results_of(costs=costs(test_peak_bytes=nothing, training_peak_bytes=nothing)), ASKED
    )
    assert "peak bytes" not in set(cells["group"])


def test_no_costs_are_refused() -> None:
    with pytest.raises(ValueError, match="cost: there must be cost files, got none"):
        table(results_of(costs=costs().iloc[:0]), ASKED)
