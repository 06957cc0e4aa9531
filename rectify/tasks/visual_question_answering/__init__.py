"""Visual question answering: see README.md next to this file."""
