"""Digests of the code that decides what a rule writes."""

from rectify.experiment.codes import CODE, TASK_CODE, digest, digest_when_asked
from rectify.results import provenance


def test_a_digest_is_computed_when_a_job_asks_for_it(monkeypatch) -> None:
    read = []
    original = provenance.source_digest
    monkeypatch.setattr(
        "rectify.experiment.codes.source_digest",
        lambda *modules: read.append(modules) or original(*modules),
    )
    digest.cache_clear()
    asked = digest_when_asked("pretrain")
    assert read == []
    assert asked("any wildcards") == original(*CODE["pretrain"])
    assert read == [CODE["pretrain"]]


def test_the_code_of_a_task_is_added() -> None:
    asked = digest_when_asked("evaluate", "image_classification")
    module = "rectify.tasks.image_classification.task"
    assert asked("any wildcards") == provenance.source_digest(*TASK_CODE["evaluate"], module)
