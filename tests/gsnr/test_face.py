"""The face of ``rectify.gsnr``: what its import costs, and the examples of its docstrings."""

import doctest
import inspect
import subprocess
import sys

import pytest

from rectify import gsnr

HEAVY = ("timm", "transformers", "snakemake", "torchvision")


def test_the_import_brings_no_model_zoo() -> None:
    code = f"import sys, rectify.gsnr; print([name for name in {HEAVY} if name in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]", said.stdout


@pytest.mark.parametrize("name", gsnr.__all__)
def test_each_public_name_has_an_example_that_runs(name: str) -> None:
    value = getattr(gsnr, name)
    if name == "ESTIMATORS":
        assert all(inspect.getdoc(estimator) for estimator in value.values())
        return
    tests = doctest.DocTestFinder(recurse=False).find(value, name, globs={})
    examples = [example for test in tests for example in test.examples]
    assert examples, f"{name} has no example"
    globs = {name: value, **({"Gsnr": gsnr.Gsnr} if name == "Gsnr" else {})}
    runner = doctest.DocTestRunner()
    for test in tests:
        test.globs.update(globs)
        runner.run(test)
    assert runner.failures == 0
