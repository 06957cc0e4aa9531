"""Factors: their values in order, and how each reads."""

import pytest
from pandas import DataFrame

from rectify.analysis.factors import models, title, titles, values
from rectify.controls import CONTROLS, VARIANTS

RUNS = DataFrame(
    {
        "data": ["b", "a", "c", "a", "a"],
        "data_title": ["Set B", "Set A", "Set C", "Set A", "Set A"],
        "vision": ["small", "large", "small", "tiny", "tiny"],
        "vision_title": ["ViT-S", "ViT-L", "ViT-S", "ViT-T", "ViT-T"],
        "vision_parameters": [2.0, 3.0, 2.0, 1.0, 1.0],
        "variant": ["auxiliary", "insert", "vanilla", "insert", "insert"],
        "control": ["random", "frozen", None, "mlp", "frozen"],
        "layer": [31.0, 7.0, float("nan"), 0.0, 7.0],
        "lambda": [0.35, 0.0, 0.0, 0.0, 0.0],
        "position": ["end", "5", None, "early", "middle"],
        "insert_at": [12.0, 5.0, float("nan"), 0.0, 6.0],
    }
)


def test_names_come_in_the_order_of_the_configuration_and_others_after_them() -> None:
    assert values(RUNS, "data", {"data": ["c", "x", "b"]}) == ["c", "b", "a"]
    assert values(RUNS, "data") == ["b", "a", "c"]


def test_variants_and_controls_come_in_the_order_of_their_registry() -> None:
    assert values(RUNS, "variant") == ["vanilla", "insert", "auxiliary"]
    controls = values(RUNS, "control")
    assert controls == [name for name in CONTROLS if name in ("frozen", "random", "mlp")]
    assert controls[0] == "frozen"


def test_numbers_come_by_size() -> None:
    assert values(RUNS, "layer") == [0, 7, 31]
    assert values(RUNS, "lambda") == [0, 0.35]


def test_positions_come_from_the_image_towards_the_head() -> None:
    assert values(RUNS, "position") == ["early", "5", "middle", "end"]
    number = RUNS.assign(position=["end", "12", None, "0", "early"])
    number = number.assign(insert_at=[12.0, 12.0, float("nan"), 0.0, 0.0])
    assert values(number, "position") == ["early", "0", "12", "end"]


@pytest.mark.parametrize(
    ("factor", "value", "text"),
    [("layer", 7.0, "layer 7"), ("lambda", 0.35, "λ = 0.35"), ("position", "5", "after 5"),
     ("position", "end", "end"), ("data", "c", "Set C"), ("vision", "tiny", "ViT-T"),
     ("variant", "auxiliary", VARIANTS["auxiliary"].title),
     ("control", "mlp", CONTROLS["mlp"].title)],
)  # fmt: skip
def test_a_value_reads_as_people_say_it(factor: str, value: str | float, text: str) -> None:
    assert title(RUNS, factor, value) == text


def test_a_control_that_is_not_registered_is_an_error() -> None:
    with pytest.raises(ValueError, match="control: must be a known control, got 'lora'"):
        titles(RUNS.assign(control="lora"), "control")


def test_models_come_from_the_smallest_to_the_largest() -> None:
    assert models(RUNS, "vision") == {"tiny": "ViT-T", "small": "ViT-S", "large": "ViT-L"}


def test_layers_in_a_row_follow_the_layer_that_they_begin_with():
    runs = DataFrame({"layer": [31.0, "30-31", 7.0, 30.0, None]}, dtype=object)
    assert titles(runs, "layer") == {
        7.0: "layer 7", 30.0: "layer 30", "30-31": "layers 30-31", 31.0: "layer 31",
    }  # fmt: skip
