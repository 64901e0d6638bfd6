"""Several runs at a glance: the settings that differ, the accuracy of each, and the differences to the first."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from rence_lightning.errors import UserError
from rence_lightning.evaluation import Difference, SampleFolder
from rence_lightning.evaluation.comparison import MACRO, compare_seeds
from rence_lightning.run.changed_settings import Setting, by_setting

BENCHMARKS_SHOWN, COLUMNS = 3, 7
"""Largest numbers of benchmarks with a column each, and of columns in a table of fewer rows."""


class Overview(NamedTuple):
    """The settings of runs in their order, a table of them with its header, differences by `LABEL: BENCHMARK`, and
    reasons why some are missing."""

    settings: Sequence[Setting]
    table: list[list[str]]
    differences: dict[str, Difference]
    missing: list[str]


def overview(configs: Mapping[str, str], folders: Mapping[str, SampleFolder]) -> Overview:
    """Compares runs: each setting with the first, seed by seed; or seeds with the first one, if there is one setting.

    Args:
        configs: Configuration of each run in YAML by the run's name, empty where it has none.
        folders: Evaluation of each run by the run's name; what is not finished in it is left out.
    """
    settings = by_setting(configs)
    sides = [
        replace(each, seeds={name: seed for name, seed in each.seeds.items() if folders[name].finished})
        for each in settings
    ]
    accuracies = [compare_seeds([(None, folders[name]) for name in each.seeds]) if each.seeds else {} for each in sides]
    if len(sides) == 1:
        sides = [replace(sides[0], seeds={name: seed}, label=name) for name, seed in sides[0].seeds.items()]
    differences: dict[str, Difference] = {}
    missing = [f"{folder.path} holds no finished benchmark" for folder in folders.values() if not folder.finished]
    for other in (each for each in sides[1:] if each.seeds and sides[0].seeds):
        first = {seed: name for name, seed in sides[0].seeds.items()}
        pairs = [(first[seed], name) for name, seed in other.seeds.items() if seed in first]
        pairs = pairs or list(zip(sides[0].seeds, other.seeds, strict=False))
        try:
            found = compare_seeds([(folders[a], folders[b]) for a, b in pairs])
        except UserError as error:
            missing.append(str(error))
        else:
            differences |= {f"{other.label}: {name}": each for name, each in found.items()}
    return Overview(settings, _table(settings, accuracies), differences, missing)


def _table(settings: Sequence[Setting], accuracies: Sequence[Mapping[str, Difference]]) -> list[list[str]]:
    names = list(dict.fromkeys(name for each in accuracies for name in each))
    names = names if len(names) <= BENCHMARKS_SHOWN else [MACRO]
    rows = [["run (seed)", *settings[0].values, *(f"{name} % (95% interval)" for name in names)]]
    for setting, found in zip(settings, accuracies, strict=True):
        runs = ", ".join(f"{name} ({seed})" for name, seed in setting.seeds.items())
        shown = (found.get(name) for name in names)
        cells = (f"{100 * e.b:.1f} ({100 * e.low:.1f} to {100 * e.high:.1f})" if e is not None else "" for e in shown)
        rows.append([runs, *setting.values.values(), *cells])
    return rows


def upright(rows: list[list[str]]) -> list[list[str]]:
    """A table, with columns in the place of rows where it has many columns and few rows."""
    return [list(row) for row in zip(*rows, strict=True)] if len(rows[0]) > max(COLUMNS, len(rows)) else rows
