"""The curves of the page: accuracy and what the iterations measured, a figure for each task."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from benchmarks.study.results import Outcome
from benchmarks.study.runs import Cell, Runs
from rence_lightning.report.curves import STYLES

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rence",
    "font.size": 13,
    "axes.grid": True,
    "grid.color": "#e4e8ea",
}


class Panel(NamedTuple):
    """A panel: what it shows over what, its title, and a factor that makes percent."""

    y: str
    x: str
    title: str
    factor: float = 1.0


AXES = ("responses", "updates", "cpu_seconds")
PANELS = [
    *(
        Panel(y, x, title, 100)
        for x in AXES
        for y, title in (("accuracy", "held-out pass@1, %"), ("correct", "right in training, %"))
    ),
    Panel("answered", "responses", "with an answer, %", 100),
    Panel("length", "responses", "tokens of a response"),
    Panel("entropy", "responses", "entropy, nats a token"),
    Panel("kl", "responses", "KL(pi_old, pi_theta) of the updates"),
]
POOL = 192
"""Smallest number of responses of a point; iterations of fewer are taken together, and left out at a run's end."""


def draw(runs: Runs, task: str, path: Path) -> None:
    """Writes the figure of a task: means over the test seeds, and bands from the lowest seed to the highest.

    Between two points of a seed its values are interpolated. A seed that ended early goes on with its last value.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 16), layout=ConstrainedLayoutEngine(h_pad=0.1))
        for axes, panel in zip(figure.subplots(5, 2).flat, PANELS, strict=True):
            for method, (colour, dash) in zip(runs.spec.trained, STYLES, strict=False):
                seeds = [points for run in runs.of(Cell(task, method)).values() if (points := series(run, panel))]
                if not seeds:
                    continue
                grid = np.unique([x for each in seeds for x, _ in each if x >= max(other[0][0] for other in seeds)])
                values = [panel.factor * np.interp(grid, *np.transpose(each)) for each in seeds]
                kind: Any = {"color": colour, "ls": (0, dash) if dash else "-", "lw": 2, "marker": ".", "label": method}
                axes.plot(grid, np.mean(values, 0), **kind)  # with marks, because a single point has no line
                axes.fill_between(grid, np.min(values, 0), np.max(values, 0), color=colour, alpha=0.12, lw=0)
            axes.set(title=panel.title, xlabel=panel.x.replace("cpu_seconds", "CPU seconds of training"))
            axes.set_ylim(0, 104 if panel.y == "answered" else None)
            axes.spines[["top", "right"]].set_visible(False)
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None})


def series(run: Outcome, panel: Panel) -> list[tuple[float, float]]:
    """The points of a run in a panel; a run that measured nothing has none.

    What an iteration measures is of the policy before its updates: it is shown where the iteration began, and several
    that are taken together at the mean, weighted by responses.
    """
    if panel.y == "accuracy":
        return [(0.0, run.start), *((getattr(each, panel.x), each.accuracy) for each in run.curve)]
    points, pool, before = [], list[tuple[float, float, float]](), dict.fromkeys(AXES, 0.0)
    for each in run.training:
        pool.append((each["responses"] - before["responses"], before[panel.x], each.get(panel.y, math.nan)))
        before = {axis: each[axis] for axis in AXES}
        if sum(weight for weight, _, _ in pool) >= POOL:
            weights, xs, ys = np.transpose(pool)
            points.append((float(np.average(xs, weights=weights)), float(np.average(ys, weights=weights))))
            pool = []
    return points
