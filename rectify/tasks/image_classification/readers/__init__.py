"""One file per kind of set: see ``rectify.tasks.readers``."""
