from typing import Annotated

import pytest
from pydantic import Field, model_validator

from rectify.typed import Closed, Name, Several, check_known, merge, nearest, parse


class Inner(Closed):
    count: Annotated[int, Field(ge=1)] = 1
    share: float = 0.5


class Outer(Closed):
    inner: Inner = Inner()
    named: dict[Name, Inner] = {}  # noqa: RUF012  (pydantic copies it)
    several: Several[str] = ("a",)
    weights: float = Field(0.1, alias="lambda")

    @model_validator(mode="after")
    def _fits(self) -> "Outer":
        if self.inner.count == 99:
            raise ValueError("config: inner.count must not be 99, got 99. Change it.")
        return self


def mistake(values):
    with pytest.raises(ValueError, match=r"^config: ") as caught:
        parse(Outer, values, "")
    assert "\n" not in f"{caught.value}"
    return f"{caught.value}"


def test_a_right_value_is_typed():
    parsed = parse(Outer, {"several": "b", "named": {"x-1": {"count": 3}}, "lambda": 1}, "")
    assert (parsed.several, parsed.named["x-1"].count, parsed.weights) == (("b",), 3, 1.0)


def test_an_unknown_key_names_the_nearest_right_spelling_at_any_depth():
    assert mistake({"iner": 1}) == (
        "config: every key must be known, got 'iner' at top level. Did you mean inner?"
    )
    assert mistake({"inner": {"cont": 1}}).endswith("'cont' at inner. Did you mean count?")
    assert mistake({"named": {"x": {"shar": 1}}}).endswith("at named.x. Did you mean share?")
    assert mistake({"named": {"x": {"qq": 1}}}).endswith("at named.x. Known: count, share.")
    assert mistake({"lamda": 1}).endswith("Did you mean lambda?")


def test_an_unknown_key_is_told_before_other_mistakes():
    assert "'zz'" in mistake({"inner": {"count": 0}, "zz": 1})


def test_a_broken_rule_names_the_key_and_the_value():
    said = mistake({"inner": {"count": 0}})
    assert "inner.count must follow its rule" in said
    assert "got 0" in said
    assert "'8'" in mistake({"inner": {"count": "8"}})
    assert "named.a_b" in mistake({"named": {"a_b": {}}})
    assert "several" in mistake({"several": ["a", "a"]})
    assert "at least one" in mistake({"several": []})


def test_a_line_of_a_group_inside_is_told_as_it_is():
    assert mistake({"inner": {"count": 99}}) == (
        "config: inner.count must not be 99, got 99. Change it."
    )


def test_where_the_value_is_comes_before_the_key():
    with pytest.raises(ValueError, match=r"config: data\.x\.count must follow"):
        parse(Inner, {"count": 0}, "data.x")
    with pytest.raises(ValueError, match=r"got 'zz' at data\.x\. Known: count, share\."):
        parse(Inner, {"zz": 0}, "data.x")


def test_a_known_name_passes_and_another_is_one_line():
    check_known("config: x", "end", ["early", "end"], "a place")
    with pytest.raises(ValueError, match=r"^config: x: must be a place, got 'ende'\. Did you mean"):
        check_known("config: x", "ende", ["early", "end"], "a place")
    assert nearest("zz", []) == "Known: none."


def test_an_overlay_merges_mappings_replaces_the_rest_and_changes_neither():
    base = {"a": {"b": 1, "c": [1, 2]}, "d": 3}
    overlay = {"a": {"c": [9]}, "d": {"e": 1}}
    assert merge(base, overlay) == {"a": {"b": 1, "c": [9]}, "d": {"e": 1}}
    assert (base, overlay) == (
        {"a": {"b": 1, "c": [1, 2]}, "d": 3}, {"a": {"c": [9]}, "d": {"e": 1}}
    )  # fmt: skip
