"""The settings of a resumed run that differ from those of its checkpoint, and those that may not."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from rence_lightning.errors import UserError

FIXED = (
    "model.policy",
    "model.dtype",
    "model.lora",
    "model.optimizer.class_path",
    "model.lr_scheduler",
    "data.weights",
)
"""Settings that the checkpoint's state depends on. (Training prompts are compared by content when they are loaded.)"""

IGNORED = ("ckpt_path", "config")


class Change(NamedTuple):
    """A setting that differs: dotted key without `init_args`, value in the checkpoint, value in the resumed run."""

    key: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key}: {self.before} -> {self.now}"


def changes(before: str, now: str) -> list[Change]:
    """The settings that differ between two configurations in YAML.

    Raises:
        UserError: A setting differs that cannot be changed when a run is resumed.
    """
    old, new = (dict(_flat(yaml.safe_load(text) or {})) for text in (before, now))
    differing = [
        Change(key, old.get(key), new.get(key))
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key) and not key.startswith(IGNORED)
    ]
    for change in differing:
        if f"{change.key}.".startswith(tuple(f"{fixed}." for fixed in FIXED)):
            raise UserError(
                f"{change.key} is {change.now}, but the checkpoint was made with {change.before}, and its contents "
                "depend on this setting; set it back, or start a new run"
            )
    return differing


def _flat(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and plain values of nested settings."""
    if isinstance(node, dict) and node:
        for name, value in node.items():
            yield from _flat(value, key if name == "init_args" else f"{key}.{name}".lstrip("."))
    elif isinstance(node, list) and node and isinstance(node[0], dict):
        for index, value in enumerate(node):
            yield from _flat(value, f"{key}.{index}")
    else:
        yield key, node
