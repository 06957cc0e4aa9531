"""Data sets: how they are read or drawn, and how a prepared set lies on disk."""
