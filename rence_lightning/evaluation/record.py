"""The results of an evaluation: as an object, as a table, and as a line of the run's `evaluations.jsonl`."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.table import Table
from rich.text import Text

from rence_lightning.errors import UserError
from rence_lightning.evaluation.samples import SampleFolder

Results = Mapping[str, Mapping[str, float]]
"""Benchmark -> figure -> value, with the names of `BenchmarkMetrics`."""


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation of the policy on all configured benchmarks.

    Attributes:
        iteration: Iterations of training before the evaluation.
        results: Figures of each benchmark.
        repeats: Number of responses to each problem, k.
        temperature: Sampling temperature of the responses.
        samples: Folder with all responses.
        first: Figures of the run's first evaluation, None where this is the first.
        baseline: Samples of an earlier evaluation to compare with, None where no comparison is configured.
    """

    iteration: int
    results: Results
    repeats: int
    temperature: float
    samples: SampleFolder
    first: Results | None = None
    baseline: SampleFolder | None = None


_SHARES = ("maj", "pass", "answered", "truncated")


def _shown(name: str, value: float) -> str:
    return f"{value:,.0f}" if name == "length" else f"{100 * value:.1f}"


def evaluation_table(results: Results, repeats: int, title: str) -> Table:
    """A table with one row for each benchmark, in percent and tokens, and a last row with unweighted means if there are
    several. Figures that are missing for a benchmark are omitted.

    Args:
        results: Figures of each benchmark. The ± is the standard deviation over repeats; the interval is over problems.
        repeats: Number of responses to each problem, k.
        title: Title of the table.
    """
    figures = [name for name in (*_SHARES, "length") if all(name in result for result in results.values())]
    named = [name + f"@{repeats}" * (name in ("maj", "pass")) + " %" * (name in _SHARES) for name in figures]
    table = Table(title=Text(title))
    table.add_column("benchmark")
    for heading in (f"avg@{repeats} %", "95% interval", *named):
        table.add_column(heading, justify="right")
    for name, result in results.items():
        accuracy = _shown("avg", result["avg"]) + (f" ± {_shown('std', result['std'])}" if repeats > 1 else "")
        bounds = " - ".join(_shown(end, result[end]) for end in ("avg_low", "avg_high"))
        table.add_row(Text(name), accuracy, bounds, *(_shown(key, result[key]) for key in figures))
    if len(results) > 1:
        table.add_section()
        means = (_shown(key, fmean(result[key] for result in results.values())) for key in figures)
        # No ±: the std of a mean over benchmarks is not the mean of their stds.
        table.add_row("macro average", _shown("avg", macro_average(results)), "", *means, style="bold")
    return table


def macro_average(results: Results) -> float:
    """The mean of `avg` over benchmarks, of which there must be one, each with the same weight."""
    return fmean(result["avg"] for result in results.values())


def append_evaluation(path: Path, iteration: int, results: Results) -> None:
    """Append a line to an `evaluations.jsonl`: `{"iteration": 0, "average": 0.26, "benchmarks": {...}}`.

    Shares are in [0, 1]. The line is on the disk when this returns, so that a killed run loses none.

    Raises:
        ValueError: A figure is not finite, which JSON cannot represent.
    """
    record = {"iteration": iteration, "average": macro_average(results), "benchmarks": results}
    line = json.dumps(record, allow_nan=False) + "\n"
    with path.open("ab", buffering=0) as file:
        file.write(line.encode())
        os.fsync(file.fileno())


def forget_evaluations_after(path: Path, iteration: int) -> None:
    """Remove the lines of later iterations, which a run resumed from this iteration will repeat."""
    kept = [line for line in read_evaluations(path) if line["iteration"] <= iteration]
    if path.exists():
        draft = path.with_name(f".tmp-{path.name}")
        draft.write_text("".join(json.dumps(line) + "\n" for line in kept))
        draft.replace(path)


def read_evaluations(path: Path) -> list[dict[str, Any]]:
    """The lines of an `evaluations.jsonl`, in order; empty where the file does not exist.

    Raises:
        UserError: A line does not have the form that `append_evaluation` writes.
    """
    if not path.exists():
        return []
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
            records.append({key: record[key] for key in ("iteration", "average", "benchmarks")})
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path}, line {number}: not an evaluation's record; remove the line") from error
    return records
