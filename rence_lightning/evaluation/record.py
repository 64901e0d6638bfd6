"""What an evaluation leaves behind: a table on the screen and a line in the run's `evaluations.jsonl`."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.table import Table
from rich.text import Text

from rence_lightning.errors import UserError
from rence_lightning.evaluation.metrics import macro_average

Results = Mapping[str, Mapping[str, float]]
"""Benchmark -> figure -> value, as `BenchmarkMetrics.compute` names them."""


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


_FIGURES: dict[str, Callable[[float], str]] = {
    "maj": _percent,
    "pass": _percent,
    "boxed": _percent,
    "truncated": _percent,
    "length": _count,
    "tokens_per_second": _count,
}


def evaluation_table(results: Results, repeats: int, title: str) -> Table:
    """A row a benchmark, in percent and tokens; a last row with the unweighted means when there are several.

    The ± is the standard deviation over the k repeats; the interval is over problems.

    Figures that not every benchmark has are left out.

    Args:
        results: The figures of each benchmark.
        repeats: k, the number of responses to each problem.
        title: Above the table.
    """
    figures = {key: show for key, show in _FIGURES.items() if all(key in result for result in results.values())}
    headings = {"maj": f"maj@{repeats} %", "pass": f"pass@{repeats} %", "boxed": "boxed %", "truncated": "truncated %"}
    table = Table(title=Text(title))
    table.add_column("benchmark")
    interval = all("avg_low" in result for result in results.values())
    named = [headings.get(key, key.replace("_per_", "/")) for key in figures]
    for heading in (f"avg@{repeats} %", *(["95% interval"] * interval), *named):
        table.add_column(heading, justify="right")
    for name, result in results.items():
        accuracy = _percent(result["avg"])
        if repeats > 1:
            accuracy += f" ± {_percent(result['std'])}"
        bounds = [f"{_percent(result['avg_low'])} - {_percent(result['avg_high'])}"] if interval else []
        table.add_row(Text(name), accuracy, *bounds, *(show(result[key]) for key, show in figures.items()))
    if len(results) > 1:
        table.add_section()
        means = (show(fmean(result[key] for result in results.values())) for key, show in figures.items())
        # No ±: the std of a mean over benchmarks is not the mean of their stds.
        table.add_row("macro average", _percent(macro_average(results)), *([""] * interval), *means, style="bold")
    return table


def append_evaluation(path: Path, iteration: int, results: Results) -> None:
    """Add a line to an `evaluations.jsonl`: `{"iteration": 0, "average": 0.26, "benchmarks": {...}}`, shares in [0, 1].

    The line is written at once and reaches the disk before this returns, so that a killed run loses none.

    Raises:
        ValueError: A figure is not finite, which JSON cannot say.
    """
    record = {
        "iteration": iteration,
        "average": macro_average(results),
        "benchmarks": {name: dict(result) for name, result in results.items()},
    }
    line = json.dumps(record, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:
        file.write(line.encode())
        os.fsync(file.fileno())


def forget_evaluations_after(path: Path, iteration: int) -> None:
    """Drop the lines of later iterations, which a run resumed from this one will go through again."""
    kept = [line for line in read_evaluations(path) if line["iteration"] <= iteration]
    if path.exists():
        draft = path.with_name(f".tmp-{path.name}")
        draft.write_text("".join(json.dumps(line) + "\n" for line in kept))
        draft.replace(path)


def read_evaluations(path: Path) -> list[dict[str, Any]]:
    """The lines of an `evaluations.jsonl`, in order; empty when there is no such file yet.

    Raises:
        UserError: A line is not what `append_evaluation` writes.
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
