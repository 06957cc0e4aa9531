"""States of observers: what was recorded, next to the settings that it was recorded with."""

from collections.abc import Mapping


def check_settings(settings: Mapping[str, object], state: Mapping[str, object]) -> None:
    """Check that a state was recorded with these settings.

    Raises:
        ValueError: If it was not.
    """
    saved = {key: state.get(key) for key in settings}
    if saved != settings:
        raise ValueError(f"gsnr: the state must have {settings}, got {saved}. Train again.")
