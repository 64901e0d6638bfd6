"""The settings that differ: of a resumed run from those of its checkpoint, and those that may not; and between runs."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import chain
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

NAMES = (*IGNORED, "seed_everything", "trainer.run_dir", "trainer.loggers")
"""Settings in which runs of one setting differ: seed, start, and where they are written."""

KEYS_IN_LABEL, LONGEST_VALUE = 3, 40
"""Number of settings that a label names, and of characters of a value that are shown."""


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


@dataclass
class Setting:
    """Runs that differ in their seeds alone.

    Attributes:
        values: Values of the settings in which all compared runs differ, by dotted key.
        seeds: Seed of each run, by the run's name.
        label: First of the values, such as `lr 1e-5`; with a run's name where that is empty or not unique.
    """

    values: dict[str, str]
    seeds: dict[str, Any] = field(default_factory=dict)
    label: str = ""


def by_setting(configs: Mapping[str, str]) -> list[Setting]:
    """Groups runs by their settings; a repetition with the same seed is in a group of its own.

    Args:
        configs: Configuration of each run in YAML by the run's name, empty where it has none.
    """
    flat = {name: dict(_flat(yaml.safe_load(text))) if text else {} for name, text in configs.items()}
    known = [run for run in flat.values() if run]
    keys = [
        key for key in dict.fromkeys(chain.from_iterable(known)) if not key.startswith(NAMES) and _differs(key, known)
    ]
    groups: dict[tuple[str, int], Setting] = {}
    for name, run in flat.items():
        same, number = str([bool(run), *(run.get(key, "-") for key in keys)]), 0
        while run.get("seed_everything") in groups.setdefault((same, number), Setting({})).seeds.values():
            number += 1
        groups[same, number].values = {key: _shown(key, run) for key in keys}
        groups[same, number].seeds[name] = run.get("seed_everything")
    for group in groups.values():
        values = list(group.values.items())[:KEYS_IN_LABEL]
        group.label = ", ".join(f"{_short(key, keys)} {value}" for key, value in values)
    labels = Counter(group.label for group in groups.values())
    for group in groups.values():
        if not group.label or labels[group.label] > 1:
            group.label = f"{group.label} {next(iter(group.seeds))}".strip()
    return list(groups.values())


def _differs(key: str, runs: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a setting differs between the runs that have it; or is missing in some, and no choice above it that
    differs, such as the class whose argument it is, says why."""
    values = [run[key] for run in runs if key in run]
    if len(values) == len(runs) or any(value != values[0] for value in values):
        return any(value != values[0] for value in values)
    above = [part for at, dot in enumerate(key) if dot == "." for part in (key[:at], f"{key[:at]}.class_path")]
    return not any(part != key and any(part in run for run in runs) and _differs(part, runs) for part in above)


def _short(key: str, keys: Sequence[str]) -> str:
    """The last part of a dotted key, or all of it where another key ends alike."""
    ends = [each.removesuffix(".class_path").rpartition(".")[2] for each in (key, *keys)]
    return ends[0] if ends.count(ends[0]) == 2 else key


def _shown(key: str, run: Mapping[str, Any]) -> str:
    """The value of a setting in a line; of a group of settings, what it holds."""
    group = (f"{name.removeprefix(f'{key}.')} {each}" for name, each in run.items() if name.startswith(f"{key}."))
    value = run[key] if key in run else ", ".join(group) or "-"
    if isinstance(value, float) and 0 < abs(value) < 0.01:
        return f"{Decimal(repr(value)):e}"  # 1e-5, and not 1e-05
    text = str(value).rpartition(".")[2] if key.endswith(".class_path") else "null" if value is None else str(value)
    return text if len(text := " ".join(text.split())) <= LONGEST_VALUE else f"...{text[3 - LONGEST_VALUE :]}"


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
