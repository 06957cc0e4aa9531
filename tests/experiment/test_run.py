import pytest
from hypothesis import given
from hypothesis import strategies as st

from rectify.controls import CONTROLS, VARIANTS
from rectify.experiment.run import POSITIONS, Run, place

names = st.from_regex(r"[a-z0-9]+([.-][a-z0-9]+)*", fullmatch=True)
layer = {"language": "llama-7b", "layer": 31, "position": "end"}


OF = {
    variant: [name for name, control in CONTROLS.items() if variant in control.variants]
    for variant in ("insert", "residual", "auxiliary")
}


@st.composite
def runs(draw):
    """Fields of a run; the checks of annotations may not draw within a strategy."""
    variant = draw(st.sampled_from([*VARIANTS]))
    if variant == "vanilla":
        return draw(names), draw(names)
    positions = st.sampled_from(POSITIONS) | st.integers(0, 99).map(str)
    weight = st.floats(0, 1, exclude_min=True, allow_subnormal=False)
    return (
        draw(names),
        draw(names),
        variant,
        draw(st.sampled_from(OF[variant])),
        draw(names),
        draw(st.integers(0, 200) | st.sampled_from(["0-1", "30-31", "9-12"])),
        draw(positions),
        draw(weight) if variant == "auxiliary" else 0.0,
    )


@given(runs())
def test_a_run_comes_back_from_its_name(fields):
    run = Run(*fields)
    assert Run.parse(run.name) == run


@given(st.text(max_size=40) | st.lists(names, max_size=8).map("_".join))
def test_any_other_name_is_a_value_error(name):
    try:
        run = Run.parse(name)
    except ValueError:
        return
    assert run.name == name
    assert run.variant in VARIANTS


@pytest.mark.parametrize(
    "name",
    [
        "glyphs_vit-s",
        "glyphs_vit-s_vanila",
        "glyphs_vit-s_insert",
        "glyphs_vit-s_insert_llama_layer-31-30_end",
        "glyphs_vit-s_insert_llama_layer-030-31_end",
        "glyphs_vit-s_insert_llama_layer-31-31_end",
        "glyphs_vit-s_insert_llama_layer-1-2-3_end",
        "glyphs_vit-s_vanilla-random",
        "glyphs_vit-s_vanilla_llama-7b_layer-31_end",
        "glyphs_vit-s_insert-lora_llama-7b_layer-31_end",
        "glyphs_vit-s_insert-frozen_llama-7b_layer-31_end",
        "glyphs_vit-s_insert-head_llama-7b_layer-31_end",
        "glyphs_vit-s_insert_llama-7b_layer-31_ende",
        "glyphs_vit-s_insert_llama-7b_layer--1_end",
        "glyphs_vit-s_insert_llama-7b_31_end",
        "glyphs_vit-s_insert_llama-7b_layer-31_end_lambda-0.35",
        "glyphs_vit-s_residual",
        "glyphs_vit-s_residual-head_llama-7b_layer-31_end",
        "glyphs_vit-s_residual_llama-7b_layer-31_end_lambda-0.35",
        "glyphs_vit-s_auxiliary_llama-7b_layer-31_end",
        "glyphs_vit-s_auxiliary_llama-7b_layer-31_end_lambda-nan",
        "glyphs_vit-s_auxiliary_llama-7b_layer-31_end_lambda-0.0",
        "glyphs_vit-s_auxiliary_llama-7b_layer-31_end_lambda-1.5",
        "glyphs_vit-s_auxiliary_llama-7b_layer-31_end_lambda-0.350",
        "../vit-s_vanilla",
        "",
    ],
)
def test_a_name_that_almost_follows_the_grammar_is_refused(name):
    with pytest.raises(ValueError, match="config: a run must be named <data>_<vision>_<variant>"):
        Run.parse(name)


def test_names_are_those_of_the_documentation():
    assert Run("glyphs", "vit-64").name == "glyphs_vit-64_vanilla"
    assert (
        Run("glyphs", "vit-64", "insert", **layer).name
        == "glyphs_vit-64_insert_llama-7b_layer-31_end"
    )
    assert (
        Run("glyphs", "vit-64", "insert", "random", **{**layer, "position": "5"}).name
        == "glyphs_vit-64_insert-random_llama-7b_layer-31_5"
    )
    assert (
        Run("glyphs", "vit-64", "residual", "adapter", **layer).name
        == "glyphs_vit-64_residual-adapter_llama-7b_layer-31_end"
    )
    assert (
        Run("cifar100", "vit-s", "auxiliary", "random", **layer, lambda_init=0.35).name
        == "cifar100_vit-s_auxiliary-random_llama-7b_layer-31_end_lambda-0.35"
    )


def test_a_position_is_a_word_or_a_number_of_blocks():
    assert [place(position, 6) for position in (*POSITIONS, "5")] == [0, 3, 6, 5]
    assert [place(position, 12) for position in POSITIONS] == [0, 6, 12]
