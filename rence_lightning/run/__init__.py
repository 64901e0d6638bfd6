"""A run on disk: its directory, its checkpoints and its loggers."""

from typing import Any


def __getattr__(name: str) -> Any:
    """Imports the logger when it is first used, because Lightning takes seconds, and most commands need none of it."""
    if name == "TrackioLogger":
        from rence_lightning.run.loggers import TrackioLogger

        return TrackioLogger
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
