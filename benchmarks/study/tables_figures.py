"""The figures of the tables' page. They are readable at the width of a telephone: 390 pixels, letters of 9 points."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.study.outcome import BUDGETS, Outcome, Point
from benchmarks.study.rows import Rows
from benchmarks.study.spec import REFERENCE, Row, Table
from benchmarks.study.statistics import Interval, mean_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 390 / 96
"""Inches of 390 pixels, of which a browser shows 96 in an inch."""

# Okabe and Ito's palette, whose colours are distinguishable with any colour vision.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#999999", "#000000")
"""The last one is the reference's in every panel."""

MARKERS = "osD^vP*X"
AHEAD, BEHIND, OPEN = "#0072B2", "#D55E00", "#777777"
"""Colours of a difference: where the reference is ahead, where it is behind, and where the interval includes 0."""


def draw_curves(rows: Rows, task: str, path: Path) -> None:
    """Writes the learning curves of a task: a row of panels for each table, a column for each budget."""
    with styled():
        draft = curves(rows, task)
        save_figure(draft, path)


def draw_differences(rows: Rows, path: Path) -> None:
    """Writes the paired differences to the reference: a row of panels for each task, a column for each budget."""
    with styled():
        draft = differences(rows)
        save_figure(draft, path)


def curves(rows: Rows, task: str) -> "Figure":
    """The figure of `draw_curves`."""
    from matplotlib.figure import Figure

    tables = [(table, drawn) for table in rows.spec.tables if (drawn := trained_rows(rows, task, table))]
    heights = [1.95 + 0.17 * math.ceil(len(drawn) / 2) for _, drawn in tables]
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    lines = figure.subfigures(len(tables), 1, height_ratios=heights, squeeze=False).flat
    limits = [math.inf, -math.inf]
    panels = []
    for line, (table, drawn) in zip(lines, tables, strict=True):
        line.suptitle(table.title, fontsize=10, fontweight="bold")
        pair = line.subplots(1, len(BUDGETS), sharey=True)
        for panel, budget in zip(pair, BUDGETS, strict=True):
            others = iter(COLOURS[:-1])
            for row, marker in zip(drawn, MARKERS, strict=False):
                colour = COLOURS[-1] if row.method == REFERENCE else next(others)
                ends = _curve(panel, rows, task, row, budget, {"color": colour, "marker": marker})
                limits = [min(limits[0], ends[0]), max(limits[1], ends[1])]
            panel.set_xlabel(budget)
            panel.set_xlim(left=0)
            panel.grid(alpha=0.3)
        pair[0].set_ylabel("pass@1, %")
        line.legend(*pair[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
        panels += list(pair)
    margin = 0.05 * (limits[1] - limits[0])
    for panel in panels:
        panel.set_ylim(max(-1, limits[0] - margin), min(101, limits[1] + margin))
    return figure


def trained_rows(rows: Rows, task: str, table: Table) -> list[Row]:
    """The rows of a table with finished runs of training."""
    return [row for row in table.rows if row.method in rows.trained(task) and rows.of(task, row.method)]


def reached(run: Outcome, budget: str, share: float, size: int) -> Point:
    """The first evaluation at which a share of a budget is spent; for a run that ended early, its last."""
    spent = (point for point in run.curve if getattr(point, budget) >= share * size)
    return next(spent, run.at[budget])


def _curve(panel: Any, rows: Rows, task: str, row: Row, budget: str, look: Mapping[str, str]) -> tuple[float, float]:
    """Draws means and intervals at the start and at each share of a budget; returns the lowest and highest mean."""
    runs, size = list(rows.of(task, row.method).values()), rows.spec.budgets[budget]
    points = [[Point(0, 0, 0, 0.0, run.start) for run in runs]]
    points += [[reached(run, budget, share, size) for run in runs] for share in rows.spec.shares]
    spent = [fmean(getattr(point, budget) for point in each) for each in points]
    found = [mean_interval([100 * point.accuracy for point in each], 0, 100) for each in points]
    means = [each.mean for each in found]
    bars = np.nan_to_num([[each.mean - each.low for each in found], [each.high - each.mean for each in found]])
    panel.errorbar(spent, means, bars, label=row.label, markersize=4, linewidth=1.2, elinewidth=0.8, **look)
    return min(means), max(means)


def differences(rows: Rows) -> "Figure":
    """The figure of `draw_differences`."""
    from matplotlib.figure import Figure

    methods = {task: compared(rows, task) for task in rows.tasks}
    heights = [0.19 * len(each) + 0.95 for each in methods.values()]
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    lines = figure.subfigures(len(methods), 1, height_ratios=heights, squeeze=False).flat
    for line, (task, names) in zip(lines, methods.items(), strict=True):
        line.suptitle(rows.spec.tasks[task].title, fontsize=10, fontweight="bold")
        panels = line.subplots(1, len(BUDGETS), sharex=True, sharey=True)
        found = {
            budget: [(place, each) for place, name in enumerate(names) if (each := rows.difference(task, name, budget))]
            for budget in BUDGETS
        }
        end = clip([each for pairs in found.values() for _, each in pairs])
        for panel, budget in zip(panels, BUDGETS, strict=True):
            panel.set_title(f"at {rows.spec.budgets[budget]:,} {budget}")
            panel.axvline(0, color="black", linewidth=0.8)
            panel.grid(axis="x", alpha=0.3)
            for place, each in found[budget]:
                draw_dot(panel, place, each, end, ahead=-1)
            panel.set_xlim(-1.08 * end, 1.08 * end)
            panel.set_ylim(len(names) - 0.4, -0.6)
        panels[0].set_yticks(range(len(names)), names)
        line.supxlabel(f"points above {REFERENCE}", fontsize=9)
    return figure


def compared(rows: Rows, task: str) -> list[str]:
    """The trained methods that have a difference to the reference."""
    return [name for name in rows.trained(task) if rows.difference(task, name, BUDGETS[0]) is not None]


def clip(found: list[Interval]) -> float:
    """The end of the axis: all intervals fit, unless a few of them would make the others too small to be read."""
    ends = [max(abs(each.low), abs(each.high), abs(each.mean)) for each in found if each.count > 1]
    return min(max(ends), 2 * float(np.percentile(ends, 75))) or 1.0 if ends else 1.0


def draw_dot(panel: Any, place: int, each: Interval, end: float, ahead: int) -> None:
    """A mean with its interval; beyond the end of the axis, an arrow with the mean.

    `ahead` is the sign of differences in which the reference is ahead.
    """
    colour = {ahead: AHEAD, -ahead: BEHIND, 0: OPEN}[each.sign]
    if abs(each.mean) > end:
        side = math.copysign(1, each.mean)
        panel.plot([side * end], [place], marker="<" if side < 0 else ">", color=colour, markersize=6)
        aligned = "left" if side < 0 else "right"
        panel.text(0.88 * side * end, place, f"{each.mean:+.0f}", color=colour, va="center", ha=aligned)
        return
    if each.count > 1:
        panel.plot([max(each.low, -1.08 * end), min(each.high, 1.08 * end)], [place] * 2, color=colour, linewidth=1.6)
    panel.plot([each.mean], [place], marker="o", color=colour, markersize=4.5)


@contextmanager
def styled() -> Iterator[None]:
    """The look of all figures, whatever the settings of the user are."""
    from matplotlib import style

    with style.context(["default", {"font.size": 9, "axes.titlesize": 9, "legend.fontsize": 9}]):
        yield


def save_figure(figure: "Figure", path: Path) -> None:
    figure.savefig(path, dpi=200, facecolor="white", metadata={"Software": None})
