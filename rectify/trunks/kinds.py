"""The kinds of models that are known as trunks: each says by its ``classes`` which ones it takes.

Classes are named, not imported, so that a library is imported only by whoever has a model of it.
"""

from rectify.trunks.beit import Beit
from rectify.trunks.eva import Eva
from rectify.trunks.hugging_face import HuggingFace
from rectify.trunks.swin import Swin
from rectify.trunks.vit import Distilled, ViT

KINDS = (ViT, Distilled, Eva, Beit, Swin, HuggingFace)
