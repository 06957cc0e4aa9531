"""Video classification: see README.md next to this file."""
