"""What Snakemake gives to a rule's functions: strings by the names in the rule's paths."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class OfSet(Protocol):
    set: str


@runtime_checkable
class OfShift(Protocol):
    set: str
    shift: str


@runtime_checkable
class OfRun(Protocol):
    run: str


@runtime_checkable
class OfSeed(Protocol):
    run: str
    seed: str


@runtime_checkable
class OfLanguage(Protocol):
    language: str


@runtime_checkable
class OfVision(Protocol):
    vision: str


@runtime_checkable
class OfPair(Protocol):
    vision: str
    language: str


@runtime_checkable
class OfPairs(Protocol):
    pairs: str


@runtime_checkable
class OfTarget(Protocol):
    target: str


@runtime_checkable
class OfFolder(Protocol):
    folder: str


@runtime_checkable
class OfPage(Protocol):
    page: str
