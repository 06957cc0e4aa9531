"""Data and language models that are drawn or pretrained on the spot, without downloads."""
