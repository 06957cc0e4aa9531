"""What can be downloaded: the folders of data sets and models that name a repository of a hub."""

from pathlib import Path

from rectify.experiment.settings import Config


def repositories(config: Config) -> dict[str, dict[str, str | None]]:
    """Return the folders that are downloaded from a hub: its id, what kind it is, the revision."""
    places = (
        (config.data, "folder", "dataset"),
        (config.visions, "weights", "model"),
        (config.languages, "checkpoint", "model"),
    )
    return {
        getattr(entry, key): {"hub": entry.hub, "kind": kind, "revision": entry.revision}
        for section, key, kind in places
        for entry in section.values()
        if entry.hub is not None
    }


def is_filled_by_hand(folder: Path) -> bool:
    """Return whether a folder was filled by hand rather than (even partly) downloaded."""
    fetched = (folder / "fetched.json").is_file() or (folder / ".cache").is_dir()
    return folder.is_dir() and any(folder.iterdir()) and not fetched
