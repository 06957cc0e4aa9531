"""One made-up results tree of two seeds for all tests of the analysis."""

import pytest

from tests.analysis import synthetic


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> synthetic.Made:
    """Return a results tree with all that the tables and figures need, only to be read."""
    return synthetic.demo_results(tmp_path_factory.mktemp("demo"), seeds=(0, 1))
