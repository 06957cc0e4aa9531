import json

import pytest
from jsonschema import Draft202012Validator

from rectify.experiment.schema import json_schema
from tests.helpers.configs import DEMO, DEMO_PANG, PAPER, ROOT, SMOKE, changed


def test_the_committed_schema_is_that_of_the_settings():
    path = ROOT / "workflow" / "schemas" / "config.schema.json"
    assert json.loads(path.read_text()) == json_schema(), (
        "run: rectify schema --output workflow/schemas/config.schema.json"
    )


@pytest.mark.parametrize(
    "values", [PAPER, DEMO, DEMO_PANG, SMOKE], ids=["paper", "demo", "demo-pang", "smoke"]
)
def test_the_given_configurations_suit_the_schema(values):
    schema = json_schema()
    Draft202012Validator.check_schema(schema)
    assert list(Draft202012Validator(schema).iter_errors(values)) == []


@pytest.mark.parametrize(
    "path", ["sedes", "gsnr.batchs", "data.bar.clases", "experiments.grid.lay"]
)
def test_an_editor_sees_an_unknown_key(path):
    errors = Draft202012Validator(json_schema()).iter_errors(changed(PAPER, path, 1))
    assert list(errors) != []


def test_a_null_in_the_place_of_a_name_suits_the_schema():
    schema = Draft202012Validator(json_schema())
    for path in ("targets.table3", "experiments.grid", "data.bar", "pages.pang"):
        assert list(schema.iter_errors(changed(PAPER, path, None))) == []
    assert list(schema.iter_errors(changed(PAPER, "gsnr", None))) != []


def test_no_list_of_the_configuration_has_an_entry_twice():
    def lists(node):
        if isinstance(node, dict):
            if node.get("type") == "array":
                yield node
            node = list(node.values())
        if isinstance(node, list):
            for part in node:
                yield from lists(part)

    found = list(lists(json_schema()))
    assert len(found) > 40
    assert all(one.get("uniqueItems") for one in found)
