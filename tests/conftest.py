"""Small models and data for the tests; one thread each, since tests share the machine."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported, which happens later

from typing import TYPE_CHECKING

import pytest

import tests.helpers.annotations  # noqa: F401, for jaxtyping, which imports `tests` alone

os.fsync = lambda file: None  # power does not fail while tests run, and the disk takes its time

if TYPE_CHECKING:
    from tests.helpers import synthetic

FAULT = "fault"  # the name of what a test tells pytest's summary about
SMOKE = ("digests", "elsewhere", "smoke", "what_trains")
TOGETHER = {
    "slurm": ("tests/slurm/",),
    "smoke": tuple(f"tests/workflow/test_{name}.py" for name in SMOKE),
    "demo": (
        *("tests/targets/", "tests/browser/"),
        *("tests/analysis/test_latex.py", "tests/analysis/test_collect.py"),
    ),
}
"""What shares a cluster, a finished workflow, or made-up results."""

LONG = ("tests/workflow/", "tests/untrusted/", "tests/training/")
"""What is begun next."""

CLASSES, SIZE, DEPTH = 5, 16, 4


@pytest.fixture
def make_vit():
    """A function that builds the same tiny ViT at each call; arguments change it."""
    import torch

    from rectify.trunks.vit import create_vit

    def make(seed=0, **changes):
        overrides = {"embed_dim": 16, "num_heads": 2, "depth": DEPTH, "patch_size": 8}
        arguments = {"num_classes": CLASSES, "image_size": SIZE, "channels": 1}
        arguments |= {"overrides": overrides | changes.pop("overrides", {})} | changes
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return create_vit("vit_tiny_patch16_224", **arguments)

    return make


@pytest.fixture
def vit(make_vit):
    return make_vit()


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> "synthetic.Made":
    """Return a made-up results tree of two seeds, for all tables and figures; only to be read."""
    from tests.helpers import synthetic

    return synthetic.demo_results(tmp_path_factory.mktemp("demo"), seeds=(0, 1))


@pytest.fixture(scope="session")
def block_file(tmp_path_factory):
    """The last decoder block of a tiny random LLaMA, as ``extract_block`` writes it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from rectify.language.block import extract_block

    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 2}
    folder = tmp_path_factory.mktemp("language")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(vocab_size=8, num_hidden_layers=2, **sizes))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:  # norms begin with ones, which would hide mistakes
                    parameter.add_(torch.rand_like(parameter))
    model.save_pretrained(folder / "tiny")
    extract_block(folder / "tiny", 1, folder / "layer-1.safetensors")
    return folder / "layer-1.safetensors"


@pytest.fixture
def block(block_file):
    from rectify.language.block import read_block

    return read_block(block_file)


@pytest.fixture
def images():
    """Forty one-channel images whose class shows in their brightness."""
    import torch

    from rectify.data.sets import ImageSet

    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % CLASSES
    noise = torch.randint(0, 60, (40, 1, SIZE, SIZE), generator=draws)
    pixels = (noise + 40 * labels[:, None, None, None]).to(torch.uint8)
    names = tuple(f"class {number}" for number in range(CLASSES))
    return ImageSet(pixels, labels, names, tuple(f"draw {item}" for item in range(40)))


@pytest.fixture
def restored_runtime():
    """Put back what ``runtime.start`` and ``__main__`` change for the whole process."""
    import logging

    import torch

    root = logging.getLogger()
    threads, handlers, level = torch.get_num_threads(), list(root.handlers), root.level
    offline = os.environ.get("HF_HUB_OFFLINE")
    yield
    os.environ.pop("HF_HUB_OFFLINE", None)
    os.environ.update({"HF_HUB_OFFLINE": offline} if offline else {})
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def survived(request):
    """A function that counts a fault and the results that it cost, of which there must be none."""

    def count(fault, lost):
        """``lost``: the names of the results that are missing or not those of a calm run."""
        request.node.user_properties.append((FAULT, [fault, len(lost)]))
        assert not lost, fault

    return count


def pytest_collection_modifyitems(items):
    """Begin with what takes longest in one process: the groups of `TOGETHER`, then workflows.

    So that at the end no process is left alone with minutes of work.
    """
    groups = list(TOGETHER)

    def place(item):
        group = _group(item.nodeid)
        if group in groups:
            return groups.index(group)
        return len(groups) + (not group.startswith(LONG))

    items.sort(key=place)


def _group(test):
    """Return with what a test, given by its id, shares a process: a group, or its file."""
    groups = [name for name, files in TOGETHER.items() if test.startswith(files)]
    return groups[0] if groups else test.partition("::")[0]


@pytest.hookimpl(optionalhook=True)  # of a plugin that need not be there
def pytest_xdist_make_scheduler(config, log):
    """Keep together, in one process of ``pytest -n``, what shares costly fixtures.

    That is a file, or a group of `TOGETHER`.
    """
    from xdist.scheduler import LoadScopeScheduling

    config.option.loadscopereorder = False  # in the order of `pytest_collection_modifyitems`

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return _group(nodeid)

    return ByFile(config, log)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter):
    """Print each fault, how often it was tried, and how many results were lost."""
    counts = {}
    for kind in ("passed", "failed"):
        for report in terminalreporter.getreports(kind):
            for name, value in report.user_properties if report.when == "call" else ():
                if name == FAULT:
                    tried, lost = counts.get(value[0], (0, 0))
                    counts[value[0]] = (tried + 1, lost + value[1])
    if not counts:
        return
    terminalreporter.section("faults")
    terminalreporter.line(f"{'fault':<44} {'tried':>5} {'lost results':>12}")
    for fault, (tried, lost) in counts.items():
        terminalreporter.line(f"{fault:<44} {tried:>5} {lost:>12}")
    bad = sum(len(terminalreporter.getreports(kind)) for kind in ("failed", "error"))
    if bad:
        terminalreporter.line(f"{bad} tests did not pass: a fault of theirs may not be here")
