"""Vision models as `embed -> blocks -> decode`."""

from rectify.trunks.kinds import as_trunk
from rectify.trunks.trunk import Tokens, Trunk
from rectify.trunks.vit import ViT, create_vit

__all__ = ["Tokens", "Trunk", "ViT", "as_trunk", "create_vit"]
