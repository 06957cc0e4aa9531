"""GPUs of a workstation, by a made-up list: jobs do not ask for more than there are."""

import itertools
from pathlib import Path

import pytest

from tests.workflow.project import call

RULES = """
include: "Snakefile"

rule three:
    input:
        expand("{number}.txt", number=range(3)),

rule one:
    output:
        "{number,[0-9]}.txt",
    resources:
        gpu=1,
    shell:
        "date +%s.%N > {output}; sleep 2; date +%s.%N >> {output};"
        ' echo "${{RECTIFY_GPUS-}};$CUDA_VISIBLE_DEVICES" >> {output}'
"""


@pytest.mark.parametrize(
    ("gpus", "options", "together", "seen"),
    [
        (1, (), 2, "4,6;4,6"),
        (1, ("--resources", "gpu=1"), 1, "4,6;4,6"),
        (0, (), 3, ";"),
    ],
)
def test_as_many_jobs_run_at_once_as_there_are_gpus(
    project: Path, monkeypatch: pytest.MonkeyPatch,
    gpus: int, options: tuple[str, ...], together: int, seen: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    monkeypatch.delenv("RECTIFY_GPUS", raising=False)
    (project / "three.smk").write_text(RULES)
    (project / "mine.yaml").write_text(f"device_gpus: {gpus}\n")
    if not gpus:  # nothing asks for a GPU then
        (project / "three.smk").write_text(RULES.replace("gpu=1", "gpu=0"))
    configs = ("--configfile", "demo.yaml", "mine.yaml", "--")
    words = ("--snakefile", "three.smk", "--cores", "3", *options, *configs, "three")
    said = call(project, "snakemake", *words)
    assert said.returncode == 0, said.stdout[-3000:]
    lines = [(project / f"{number}.txt").read_text().split() for number in range(3)]
    assert {line[2] for line in lines} == {seen}
    spans = [(float(begin), float(end)) for begin, end, _ in lines]
    moments = [begin for begin, _ in spans]
    running = [sum(begin <= now < end for begin, end in spans) for now in moments]
    assert max(running) <= together
    if together == 1:
        ordered = sorted(spans)
        assert all(one[1] <= other[0] for one, other in itertools.pairwise(ordered))


def test_several_nodes_are_refused_without_a_cluster(project: Path) -> None:
    (project / "three.smk").write_text(RULES)
    (project / "mine.yaml").write_text("device_nodes: 2\n")
    words = ("--snakefile", "three.smk", "--cores", "1", "--configfile", "demo.yaml", "mine.yaml")
    said = call(project, "snakemake", *words, "--", "three")
    assert said.returncode == 1
    assert "config: device_nodes must be 1 on one machine, got 2. Use `snakemake" in said.stdout
    assert not (project / "0.txt").exists()
