"""Image-caption pairs, on which language models and vision transformers are compared (Eq. 4)."""
