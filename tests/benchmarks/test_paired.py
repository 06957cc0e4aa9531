"""Paired timing against arithmetic by hand; tables, the file that they go into, peak memory."""

import sys

import pytest

from benchmarks import __main__ as command_line
from benchmarks.paired import Options, Table, fresh, paired, peak_memory, spread


class Machine:
    """Work that moves a clock instead of taking time; the machine slows down on the way."""

    def __init__(self):
        self.now, self.slowness = 0.0, 1.0

    def work(self, seconds: float, slower: float = 0.0):
        def run() -> None:
            self.now += seconds * self.slowness
            self.slowness += slower

        return run

    def clock(self) -> float:
        return self.now


def test_each_method_is_divided_by_the_mean_of_the_plain_calls_around_it():
    machine = Machine()
    plain, twice = machine.work(1, slower=1.0), machine.work(2)
    timing = paired(plain, {"twice": twice}, 2, machine.clock)
    # Slowness after the untimed plain call: 2. Then plain 2, twice 2 * 3, plain 3, and so on.
    assert timing.plain == [2, 3, 4, 5]
    assert timing.ratios == {"twice": [6 / 2.5, 10 / 4.5]}


def test_a_method_shares_its_later_plain_call_with_the_next_method():
    machine = Machine()
    methods = {"half": machine.work(0.5), "thrice": machine.work(3)}
    timing = paired(machine.work(1), methods, 3, machine.clock)
    assert timing.plain == [1] * 9
    assert timing.ratios == {"half": [0.5] * 3, "thrice": [3] * 3}


def test_the_spread_is_the_median_and_the_range():
    assert spread([1.3, 1.0, 1.15]) == "1.15 [1.00..1.30]"
    assert spread([20.04, 30], 1) == "25.0 [20.0..30.0]"


def test_only_chooses_among_the_names_that_it_holds():
    options = Options(1, 1, ("small", "loop"))
    assert options.chosen(("tiny", "small")) == ["small"]
    assert options.chosen(("observe", "loop")) == ["loop"]
    assert options.chosen(("parts", "whole")) == ["parts", "whole"]


def test_a_table_is_markdown():
    table = Table(("a", "b"), [("1", "2")], "Note.")
    assert str(table) == "Note.\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n"


def test_the_marked_part_of_a_file_is_replaced_and_the_rest_stays(tmp_path):
    path = tmp_path / "performance.md"
    path.write_text("# Speed\n\n<!-- gsnr -->\n<!-- end of gsnr -->\n\nAfter it.\n")
    for text in ("first\n", r"second \1" + "\n"):
        command_line.store(text, "gsnr", path)
        marked = f"<!-- gsnr -->\n\n{text}\n<!-- end of gsnr -->\n"
        assert path.read_text() == f"# Speed\n\n{marked}\nAfter it.\n"
    command_line.store("other\n", "startup", path)
    assert path.read_text().endswith(
        "After it.\n<!-- startup -->\n\nother\n\n<!-- end of startup -->\n"
    )


def test_a_name_that_no_case_or_method_has_is_refused(monkeypatch, restored_runtime):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "startup", "--only", "helq"])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # put back afterwards
    with pytest.raises(SystemExit, match=r"names must be of help, .*, got helq\."):
        command_line.main()


def allocate(mebibytes: int):
    return lambda: len(b"x" * (mebibytes * 2**20))  # every page is written


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from Linux' /proc")
def test_the_peak_of_a_fresh_process_is_what_it_allocates():
    peak, seconds = fresh(allocate, 200, threads=1)
    assert 195 <= peak <= 230
    assert seconds > 0


def allocate_after_others(mebibytes: int):
    """Return work that frees blocks which lie between small ones before it takes a large one."""

    def work() -> None:
        len(b"x" * (30 * 2**20))  # from now on glibc takes blocks of that size from its heap
        blocks = [(b"x" * (20 * 2**20 + number), b"x" * (2**16 + number)) for number in range(5)]
        small = [block for _, block in blocks]
        del blocks
        len(b"x" * (mebibytes * 2**20)), len(small)

    return work


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from Linux' /proc")
def test_a_peak_is_of_what_lives_at_a_time(monkeypatch):
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    assert fresh(allocate_after_others, 200, threads=1)[0] >= 290
    assert 195 <= peak_memory(allocate_after_others, 200, threads=1) <= 215
