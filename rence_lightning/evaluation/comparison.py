"""Comparison of evaluations on the same problems: the differences and their confidence intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from statistics import fmean

import numpy as np
from rich.table import Table
from rich.text import Text

from rence_lightning.errors import UserError
from rence_lightning.evaluation.intervals import RESAMPLES, Floats, interval, resampled_means, seed_interval
from rence_lightning.evaluation.samples import SampleFolder


@dataclass(frozen=True)
class Difference:
    """The difference in avg@k between two evaluations, A and B, on one benchmark, or its mean over pairs of seeds.

    Attributes:
        problems: Number of problems.
        a: avg@k of A.
        b: avg@k of B.
        low: Lower end of the 95% interval of b - a: by paired bootstrap over problems, of several pairs of seeds by
            Student's t over pairs.
        high: Upper end of the 95% interval of b - a.
        better: Number of problems that B solves more often than A, over all pairs.
        worse: Number of problems that B solves less often than A, over all pairs.
    """

    problems: int
    a: float
    b: float
    low: float
    high: float
    better: int
    worse: int

    @property
    def sure(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


MACRO = "macro average"


def compare(first: SampleFolder | None, second: SampleFolder) -> dict[str, Difference]:
    """The differences on all benchmarks that both evaluations have finished, and of their macro average if there are
    several; with None in the place of the first, the accuracy, which is the difference to no correct response.

    Raises:
        UserError: The evaluations have no benchmark in common, or their problems of a benchmark differ.
    """
    names = [name for name in second.finished if first is None or name in first.finished]
    if first is not None and not names:
        raise UserError(
            f"compare: {first.path} has finished {', '.join(first.finished) or 'nothing'}, {second.path} "
            f"{', '.join(second.finished) or 'nothing'}: no benchmark in common"
        )
    result: dict[str, Difference] = {}
    resampled: list[Floats] = []
    for number, name in enumerate(names):
        a, b = _paired(name, first, second)
        # A seed for each benchmark: the macro average needs independent draws.
        resampled.append(resampled_means(b - a, seed=number))
        counts = int((b > a).sum()), int((b < a).sum())
        result[name] = Difference(len(a), float(a.mean()), float(b.mean()), *interval(resampled[-1]), *counts)
    if len(names) > 1:
        problems, a_avg, b_avg, _, _, better, worse = zip(*map(astuple, result.values()), strict=True)
        means = fmean(a_avg), fmean(b_avg), *interval(np.mean(resampled, axis=0))
        result[MACRO] = Difference(sum(problems), *means, sum(better), sum(worse))
    return result


def compare_seeds(pairs: Sequence[tuple[SampleFolder | None, SampleFolder]]) -> dict[str, Difference]:
    """The mean of `compare` over pairs of evaluations, one for each seed; of one pair, `compare`; empty for none."""
    found = [compare(*pair) for pair in pairs]
    if len(found) < 2:
        return found[0] if found else {}
    result = {}
    for name in (name for name in found[0] if all(name in each for each in found)):
        problems, a, b, _, _, better, worse = zip(*(astuple(each[name]) for each in found), strict=True)
        low, high = seed_interval(np.subtract(b, a).tolist())
        ends = max(low, -1.0 if any(a) else 0.0), min(high, 1.0)  # where A solves nothing, B is not worse
        result[name] = Difference(problems[0], fmean(a), fmean(b), *ends, sum(better), sum(worse))
    return result


def _paired(name: str, first: SampleFolder | None, second: SampleFolder) -> tuple[Floats, Floats]:
    """The share of correct responses to each problem in both evaluations, `(problems,)` each."""
    other = second.read(name)
    one = first.read(name) if first is not None else other
    asked = [{row.id: (row.problem, row.answer) for row in rows.values()} for rows in (one, other)]
    if first is not None and asked[0] != asked[1]:
        differing = sum(asked[0].get(key) != asked[1].get(key) for key in asked[0].keys() | asked[1].keys())
        raise UserError(
            f"compare: {name} has {len(one)} problems in {first.path} and {len(other)} in {second.path}, of which "
            f"{differing} are different; evaluate both policies on the same problems"
        )
    a, b = (np.array([fmean(sample.correct for sample in rows[key].samples) for key in one]) for rows in (one, other))
    return (a, b) if first is not None else (np.zeros_like(b), b)


def comparison_table(differences: Mapping[str, Difference], first: str, second: str, seeds: bool = False) -> Table:
    """A table with one row for each benchmark, in percent; `seeds` where some rows are means over pairs of seeds."""
    caption = f"paired bootstrap over problems, {RESAMPLES:,} resamples; * the interval excludes 0"
    caption = f"of several pairs of seeds, Student's t over pairs, else {caption}" if seeds else caption
    title = Text(f"A: {first}\nB: {second}")
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    for heading in ("benchmark", "problems", "A %", "B %", "B - A", "95% interval", "better / worse"):
        table.add_column(heading, justify="left" if heading == "benchmark" else "right")
    for name, row in differences.items():
        if name == MACRO:
            table.add_section()
        table.add_row(
            Text(name),
            f"{row.problems:,}",
            f"{100 * row.a:.1f}",
            f"{100 * row.b:.1f}",
            f"{100 * (row.b - row.a):+.1f}",
            f"{100 * row.low:+.1f} to {100 * row.high:+.1f}{' *' if row.sure else ''}",
            f"{row.better} / {row.worse}",
            style="bold" if name == MACRO else None,
        )
    return table


def settings_that_differ(first: SampleFolder, second: SampleFolder) -> list[str]:
    """The settings that differ between two evaluations, each as `key: value and value`."""
    a, b = ({**each.settings, "engine": each.engine} for each in (first.description(), second.description()))
    return [f"{key}: {a.get(key)} and {b.get(key)}" for key in {**a, **b} if a.get(key) != b.get(key)]


def comparison(a: SampleFolder, b: SampleFolder) -> tuple[Table, list[str]]:
    """The comparison table of two evaluations, and the settings that differ between them."""
    return comparison_table(compare(a, b), str(a.path), str(b.path)), settings_that_differ(a, b)
