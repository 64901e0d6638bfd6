"""Several runs at a glance: the settings that differ, the accuracy of each, and the differences to the first."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rence_lightning.errors import UserError
from rence_lightning.evaluation import Difference, SampleFolder
from rence_lightning.evaluation.comparison import MACRO, compare_seeds
from rence_lightning.run.changed_settings import Setting, by_setting

BENCHMARKS_SHOWN, COLUMNS = 3, 5
"""Largest numbers of benchmarks with a column each, and of columns in a table of fewer rows."""


class Overview(NamedTuple):
    """Settings of runs, a table of them with a header, differences by `LABEL: BENCHMARK`, and why some are missing."""

    settings: Sequence[Setting]
    table: list[list[str]]
    differences: dict[str, Difference]
    missing: list[str]


def overview(runs: Mapping[str, tuple[str, SampleFolder]]) -> Overview:
    """Compares runs: each setting with the first, seed by seed; or seeds with the first one, if there is one setting.

    Args:
        runs: Configuration in YAML, which may be empty, and evaluation of each run by the run's name.
    """
    settings = by_setting({name: config for name, (config, _) in runs.items()})
    folders, differences = {name: folder for name, (_, folder) in runs.items()}, dict[str, Difference]()
    missing = [f"{folder.path} holds no finished benchmark" for folder in folders.values() if not folder.finished]
    done = {name: folder.description().iteration for name, folder in folders.items() if folder.finished}
    sides = []
    for setting in settings:
        last = max((done[name] for name in setting.seeds if name in done), default=0)
        sides.append((setting.label, {seed: name for name, seed in setting.seeds.items() if done.get(name) == last}))
        early = (name for name in setting.seeds if done.get(name, last) < last)
        missing += [
            f"{name} is left out: its last evaluation is of iteration {done[name]}, not {last}" for name in early
        ]
    accuracies = [compare_seeds([(None, folders[name]) for name in seeds.values()]) for _, seeds in sides]
    if len(sides) == 1:
        sides = [(name, {seed: name}) for seed, name in sides[0][1].items()]
    for label, seeds in sides[1:]:
        first = sides[0][1]
        pairs = [(first[seed], seeds[seed]) for seed in first if seed in seeds]
        pairs = pairs or list(zip(first.values(), seeds.values(), strict=False))
        try:
            found = compare_seeds([(folders[a], folders[b]) for a, b in pairs])
        except UserError as error:
            missing.append(str(error))
        else:
            differences |= {f"{label}: {name}": each for name, each in found.items()}
    names = list(dict.fromkeys(name for each in accuracies for name in each))
    names = names if len(names) <= BENCHMARKS_SHOWN else [MACRO]
    table = [["run (seed)", *settings[0].values, *(f"{name} % (95% interval)" for name in names)]]
    for setting, each in zip(settings, accuracies, strict=True):
        seeds_of = ", ".join(f"{name} ({seed})" for name, seed in setting.seeds.items())
        table.append([seeds_of, *setting.values.values(), *(_percent(each.get(name)) for name in names)])
    return Overview(settings, table, differences, missing)


def _percent(found: Difference | None) -> str:
    return f"{100 * found.b:.1f} ({100 * found.low:.1f} to {100 * found.high:.1f})" if found is not None else ""


def upright(rows: list[list[str]]) -> list[list[str]]:
    """A table, with columns in the place of rows where it has many columns and few rows."""
    return [list(row) for row in zip(*rows, strict=True)] if len(rows[0]) > max(COLUMNS, len(rows)) else rows
