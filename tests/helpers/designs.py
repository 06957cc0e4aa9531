"""Models of several tasks, to count and to time."""

from rectify.cost import Design
from rectify.tasks.entry import TrunkSettings


def clips(vision: str, language: str, frames: int, **entry: int) -> Design:
    """Return a VideoMAE of some ViT's sizes."""
    keys = {"image_size": 224, "channels": 3, "classes": 1000, "frames": frames, **entry}
    trunk = TrunkSettings(name=vision, timm=vision, overrides={}, family="videomae")
    return Design(task="video_classification", entry=keys, trunk=trunk, language=language)


def clouds(points: int, language: str, classes: int = 40, **overrides: object) -> Design:
    """Return a Point-BERT."""
    trunk = TrunkSettings(name="clouds", timm="none", overrides=overrides)
    entry = {"points": points, "classes": classes}
    return Design(task="point_classification", entry=entry, trunk=trunk, language=language)


def scenes(family: str, language: str, **overrides: object) -> Design:
    """Return a forecaster, of scenes as ``rectify.tasks.motion_forecasting.example`` makes them."""
    trunk = TrunkSettings(name="scenes", timm="none", overrides=overrides, family=family)
    return Design(task="motion_forecasting", entry={}, trunk=trunk, language=language)
