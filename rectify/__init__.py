"""Frozen language-model blocks in vision transformers: an experiment pipeline."""

__version__ = "0.1.0"
