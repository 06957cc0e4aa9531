"""One kind of set each: see ``rectify.tasks.readers``."""
