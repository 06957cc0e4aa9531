"""One module per command: its arguments, what it reads and writes, a few calls."""
