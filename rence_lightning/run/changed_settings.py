"""The settings that differ: of a resumed run from those of its checkpoint, and those that may not; and between runs."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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


class Setting(NamedTuple):
    """Runs that differ in their seeds alone: a label such as `lr 1e-5`, the values of all settings that differ between
    the compared runs by dotted key, and the seed of each run by its name."""

    label: str
    values: dict[str, str]
    seeds: dict[str, Any]


def by_setting(configs: Mapping[str, str]) -> list[Setting]:
    """Groups runs by their settings; a repetition with the same seed is in a group of its own.

    Args:
        configs: Configuration of each run in YAML by the run's name, empty where it has none.
    """
    flat = {name: dict(_flat(yaml.safe_load(text))) if text else {} for name, text in configs.items()}
    keys = _differing([run for run in flat.values() if run])
    groups: list[tuple[str, Setting]] = []
    for name, run in flat.items():
        own, seed = str([bool(run), *(run.get(key, "-") for key in keys)]), run.get("seed_everything")
        group = next((each for other, each in groups if other == own and seed not in each.seeds.values()), None)
        if group is None:
            group = Setting("", {_name(key): _shown(key, run) for key in keys}, {})
            groups.append((own, group))
        group.seeds[name] = seed
    names = list(dict.fromkeys(map(_name, keys)))
    ends = Counter(name.rpartition(".")[2] for name in names)
    shorts = {name: end if ends[end := name.rpartition(".")[2]] == 1 else name for name in names[:KEYS_IN_LABEL]}
    settings = [each for _, each in groups]
    labels = [", ".join(f"{short} {each.values[name]}" for name, short in shorts.items()) for each in settings]
    for number, (each, label) in enumerate(zip(settings, labels, strict=True)):
        if not label or labels.count(label) > 1:  # the name of the first run tells it from others
            label = f"{label} {next(iter(each.seeds))}".strip()
        settings[number] = each._replace(label=label)
    return settings


def _differing(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys in which settings of runs differ, in the order of the configurations."""
    every = list(dict.fromkeys(chain.from_iterable(runs)))
    keys = list[str]()
    for key in sorted(every, key=lambda key: _name(key).count(".")):
        values = [run[key] for run in runs if key in run]
        # Where a class or a whole section differs, its arguments are missing elsewhere for that reason.
        missing = len(values) < len(runs) and not key.startswith(tuple(f"{_name(above)}." for above in keys))
        if not key.startswith(NAMES) and (missing or any(value != values[0] for value in values)):
            keys.append(key)
    return sorted(keys, key=every.index)


def _name(key: str) -> str:
    return key.removesuffix(".class_path")


def _shown(key: str, run: Mapping[str, Any]) -> str:
    """The value of a setting in a line; of a section, what it holds."""
    inner = ((name.removeprefix(f"{key}."), each) for name, each in run.items() if name.startswith(f"{key}."))
    section = (each.rpartition(".")[2] if name == "class_path" else f"{name} {each}" for name, each in inner)
    value = run[key] if key in run else ", ".join(section) or "-"
    if isinstance(value, float) and 0 < abs(value) < 0.01:
        return f"{Decimal(repr(value)):e}"  # 1e-5, and not 1e-05
    text = str(value).rpartition(".")[2] if key != _name(key) else "null" if value is None else str(value)
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
