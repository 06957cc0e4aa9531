"""Image-text retrieval: see README.md next to this file."""
