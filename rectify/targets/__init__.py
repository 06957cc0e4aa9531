"""The tables and figures: one module for each, with its caption, found by name."""

from rectify.targets.contract import Target, TargetSettings
from rectify.targets.find import (
    Request,
    caption,
    code,
    code_modules,
    kind_of,
    kinds,
    module_name,
    module_of,
    requested,
    settings_of,
    titles,
)

__all__ = [
    "Request",
    "Target",
    "TargetSettings",
    "caption",
    "code",
    "code_modules",
    "kind_of",
    "kinds",
    "module_name",
    "module_of",
    "requested",
    "settings_of",
    "titles",
]
