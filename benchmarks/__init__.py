"""Paired measurements of speed and memory; no part of the installed package."""
