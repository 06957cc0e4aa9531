"""Targets by name: what each has, what it is asked for, and one-line errors."""

import json
from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from rectify import targets
from rectify.results.declared import CELLS
from rectify.results.provenance import source_digest
from rectify.targets.contract import Target
from rectify.typed import parse

KINDS = targets.kinds()


def test_the_paper_s_tables_and_figures_are_there() -> None:
    ours = {*(f"table{n}" for n in range(1, 7)), *(f"figure{n}" for n in range(2, 6))}
    assert ours | {"coherence", "controls", "cost", "grid", "selection"} <= set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_target_has_what_it_shows(kind: str) -> None:
    target = targets.module_of(kind)
    assert target.SHOWS
    assert set(target.SHOWS) <= {"table", "figure"}
    assert ("table" in target.SHOWS) == (target.table is not None)
    assert ("figure" in target.SHOWS) == (target.figure is not None) == (target.VALUES is not None)
    assert target.VALUES != CELLS
    assert "\n" not in target.TITLE
    assert target.Settings.model_fields["kind"].default == kind


@pytest.mark.parametrize("kind", KINDS)
def test_a_caption_is_one_plain_paragraph(kind: str) -> None:
    text = targets.caption(kind)
    assert 60 < len(text) < 800
    assert not set("{}`|") & set(text)
    assert "\n" not in text


def test_an_own_name_is_the_generic_kind_unless_it_says_otherwise() -> None:
    assert targets.kind_of("my-grid") == "grid"
    assert targets.kind_of("table3") == "table3"
    assert targets.kind_of("my-table", "table3") == "table3"
    assert targets.kind_of("contract") == "grid"  # a helper of the folder, no target
    with pytest.raises(ValueError, match=r"targets.my-table.kind: .* Did you mean table3\?"):
        targets.kind_of("my-table", "tabel3")


def test_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(ValueError, match="target: must be a kind of target, got 'figure9'"):
        targets.module_of("figure9")


@pytest.mark.parametrize(
    ("name", "kind", "short"),
    [
        ("table3", "table3", "Table 3"),
        ("selection", "selection", "Selection"),
        ("skip", "controls", "Skip"),
        ("auxiliary-controls", "controls", "Auxiliary controls"),
        ("figure4-untrained", "untrained", "Figure 4, untrained"),
        ("my-grid", "grid", "My grid"),
    ],
)
def test_a_list_of_contents_names_a_target_in_words(name: str, kind: str, short: str) -> None:
    title, found = targets.titles(name, kind)
    assert found == short
    assert (f"({name})" in title) == (name != kind)  # the name is what one asks for


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("table3", {}, "targets.t must be complete, got no reads"),
        ("table3", {"reads": "grid", "layers": [1]}, "got 'layers' at targets.t"),
        ("table5", {"reads": []}, "name at least one"),
        ("figure4", {"vision": "v", "languages": ["a", "a"]}, "each once"),
        ("cost", {"data": "a", "visions": "v", "languages": "l", "batch_size": 0}, "batch_size"),
        ("grid", {"reads": "a", "rows": "layers"}, "rows"),
        ("grid", {"reads": "a", "rows": "layer", "columns": ["layer"]}, "layer is in both"),
    ],
)
def test_wrong_settings_are_one_line(kind: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        parse(targets.settings_of(kind), settings, "targets.t")
    assert "\n" not in f"{error.value}"


def ask(**changes: object) -> str:
    return json.dumps({"kind": "table3", "settings": {"reads": "grid"}, **changes})


def test_a_request_is_read_with_what_it_shows() -> None:
    text = ask(estimator="xi", order={"data": ["b", "a"]}, titles={})
    request, target, settings = targets.requested(text, "mine", "figure")
    assert (request.kind, settings.reads) == ("table3", ("grid",))
    assert target.TITLE.startswith("Table 3")
    assert request.labels["estimator"] == "xi"
    assert request.labels["order"] == {"data": ("b", "a")}


@pytest.mark.parametrize(
    ("text", "shows", "message"),
    [
        (ask(kind="figure4"), "table", "target mine: must be what figure4 shows, got 'table'"),
        (ask(settings={"reads": "grid", "layer": 1}), "table", "got 'layer' at targets.mine"),
        (ask(colour="red"), "table", "got 'colour' at targets.mine"),
        ("{", "table", "targets.mine"),
    ],
)
def test_a_wrong_request_is_one_line(text: str, shows: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        targets.requested(text, "mine", shows)
    assert "\n" not in f"{error.value}"


def test_the_digest_of_a_target_is_of_its_code_and_of_the_printed_numbers() -> None:
    assert len({targets.code(kind) for kind in KINDS}) == len(KINDS)
    modules = ("rectify.targets.table3", "rectify.analysis.latex")
    assert targets.code("table3") != source_digest(*modules)
    numbers = "rectify/targets/published.csv"
    assert targets.code("table3") == source_digest(*modules, numbers)


def experiment(**factors: object) -> SimpleNamespace:
    usual = {
        "data": ("a",), "vision": ("v",), "variant": ("insert",), "language": ("l",),
        "control": None, "layer": None, "position": None, "weights": None,
    }  # fmt: skip
    return SimpleNamespace(**{**usual, **factors})


def config(**experiments: SimpleNamespace) -> SimpleNamespace:
    return SimpleNamespace(
        experiments=experiments,
        data={"a": SimpleNamespace(task="image_classification", has_masks=False)},
        visions={"v": None, "w": None},
        languages={"l": None, "m": None},
    )


def test_similarities_and_costs_are_pairs_of_models() -> None:
    nothing = config()
    one = targets.module_of("table1")
    settings = one.Settings(visions=["v", "w"], languages="l")
    assert one.similarities(settings, nothing) == [("l", "v"), ("l", "w")]
    four = targets.module_of("figure4")
    settings = four.Settings(vision="v", languages=["l", "m"])
    assert four.similarities(settings, nothing) == [("l", "v"), ("m", "v")]
    five = targets.module_of("figure5")
    reads = config(x=experiment(language=("l", "m")), y=experiment())
    assert five.similarities(five.Settings(reads=["x", "y"]), reads) == [("l", "v"), ("m", "v")]
    cost = targets.module_of("cost")
    settings = cost.Settings(data="a", visions="v", languages=["l", "m"])
    assert cost.costs(settings) == [("v", "l"), ("v", "m")]
    assert one.costs(one.Settings(visions="v", languages="l")) == []
    three = targets.module_of("table3")
    assert three.similarities(three.Settings(reads="x"), nothing) == []


def test_models_that_the_configuration_lacks_are_named() -> None:
    four = targets.module_of("figure4")
    settings = four.Settings(vision="vv", languages="l")
    with pytest.raises(ValueError, match=r"targets\.f\.vision: must be a name under visions"):
        four.check(settings, config(), "targets.f")


class Placement(SimpleNamespace):
    """A run, as far as a target chooses by it."""


def placements(*places: tuple[int, str]) -> list[Placement]:
    usual = {"control": "frozen"}
    vanilla = Placement(variant="vanilla", layer=None, position=None, **usual)
    inserted = [Placement(variant="insert", layer=n, position=p, **usual) for n, p in places]
    return [vanilla, *inserted]


def needed(kind: str, runs: Sequence[Placement]) -> list[tuple[int | None, str | None]]:
    target: Target = targets.module_of(kind)
    settings = target.Settings(reads="grid")
    return [(run.layer, run.position) for run in target.needs(settings, runs)]


def test_figures_2_and_3_need_the_last_layer_alone() -> None:
    places = [(layer, position) for layer in (0, 7) for position in ("early", "end")]
    runs = placements(*places)
    assert needed("figure2", runs) == [(None, None), (7, "end")]
    assert needed("figure2b", runs) == [(None, None), (7, "end")]
    assert needed("figure3", runs) == [(None, None), (7, "early"), (7, "end")]
    assert needed("figure5", runs) == [(None, None), *places]


def test_figure_2_without_an_end_shows_all_positions() -> None:
    assert needed("figure2", placements((0, "3"), (7, "3"))) == [(None, None), (7, "3")]
