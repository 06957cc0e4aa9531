"""The kinds of models that are known as trunks: each says by its ``classes`` which ones it takes.

Classes are named, not imported, so that a library is imported only by whoever has a model of it.
"""

from torch import nn

from rectify.trunks.beit import Beit
from rectify.trunks.eva import Eva
from rectify.trunks.hugging_face import HuggingFace
from rectify.trunks.swin import Swin
from rectify.trunks.trunk import Trunk
from rectify.trunks.vit import Distilled, ViT

KINDS = (ViT, Distilled, Eva, Beit, Swin, HuggingFace)
PARTS = ("dim", "blocks", "embed", "run", "decode")
"""What a trunk has."""


def as_trunk(model: nn.Module) -> Trunk:
    """Return a model as a trunk: a trunk itself, a model of a known class in its wrapper.

    Known are the classes, and classes derived from them, of ``KINDS``.

    Raises:
        ValueError: If the model is neither.
    """
    missing = [name for name in PARTS if not hasattr(model, name)]
    if not missing:
        return model
    wrappers = {name: kind for kind in KINDS for name in kind.classes}
    for base in type(model).__mro__:
        if wrapper := wrappers.get(f"{base.__module__}.{base.__qualname__}"):
            return wrapper(model)
    known = ", ".join(name.rpartition(".")[2] for name in wrappers)
    raise ValueError(
        f"trunk: a model must be one of {known}, or have {', '.join(PARTS)}, got "
        f"{type(model).__name__} without {', '.join(missing)}: no vision transformer that can be "
        "taken apart. Choose another model, or give it these parts."
    )
