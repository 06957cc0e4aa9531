"""Vision models as `embed -> blocks -> decode`."""

from rectify.trunks.trunk import Tokens, Trunk, as_trunk
from rectify.trunks.vit import ViT, create_vit

__all__ = ["Tokens", "Trunk", "ViT", "as_trunk", "create_vit"]
