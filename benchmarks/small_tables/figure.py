"""The learning curves of all rows."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.small_tables.report import Outcome
from benchmarks.small_tables.runs import Result

# Okabe and Ito's palette, whose colours are distinguishable with any colour vision.
COLOURS = ("#999999", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#0072B2", "#CC79A7")


def draw(outcome: Outcome, path: Path) -> None:
    """Writes the figure, with a panel for each table, to `path`, and as .svg next to it.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    columns = min(2, len(outcome.tables))
    lines = math.ceil(len(outcome.tables) / columns)
    figure = Figure(figsize=(5 * columns, 3.5 * lines), layout="constrained")
    panels = list(figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat)
    for spare in panels[len(outcome.tables) :]:
        spare.set_axis_off()
    for panel, table in zip(panels, outcome.tables, strict=False):
        trained = [row for row in table.rows if outcome.methods[row].trained]
        for row, colour in zip(trained, COLOURS[1:], strict=False):
            _band(panel, outcome.results[outcome.methods[row]], row.name, colour)
        panel.set_title(table.title, fontsize=10)
        panel.grid(alpha=0.3)
        if trained:
            panel.legend(fontsize=8, loc="lower right")
    figure.supxlabel("responses sampled in training")
    figure.supylabel("sampled pass@1 on the test split, %")
    figure.savefig(path, dpi=120)
    figure.savefig(path.with_suffix(".svg"))


def _band(panel: Any, results: Sequence[Result], name: str, colour: str) -> None:
    """Draws the mean and the range of a row's runs, interpolated because each run has its own evaluation points."""
    end = min(result.curve[-1][0] for result in results)
    grid = sorted({x for result in results for x, _ in result.curve if x <= end})
    curves = np.array([100 * np.interp(grid, *np.array(result.curve).T) for result in results])
    panel.plot(grid, curves.mean(0), color=colour, label=name, marker=".")
    panel.fill_between(grid, curves.min(0), curves.max(0), color=colour, alpha=0.15, linewidth=0)
