"""The figure of docs/precision.md."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.precision.measures import Seen
from benchmarks.precision.report import share_of
from benchmarks.precision.results import Row, only
from benchmarks.precision.views import TRUE, VIEWS

PALETTE = ("#000000", "#D55E00", "#0072B2", "#E69F00", "#56B4E9", "#009E73", "#999999", "#CC79A7")
"""Okabe and Ito's palette, whose colours are distinguishable with any colour vision."""

COLOURS = dict(zip(VIEWS, PALETTE, strict=True))

NOISY = 1.0
"""Scatter from which on a share is not drawn, because noise is as large as the movement."""

LIMITS = (-0.2, 1.3)
"""Shares that the panels show."""


def draw(movement: Sequence[Row], learning: Sequence[Row], path: Path) -> None:
    """Writes the figure: shares against updates, movement_seen against shares, and learning curves."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.2), layout="constrained")
    panels = list(figure.subplots(1, 4))
    for panel, rate in zip(panels, (1e-6, 1e-5), strict=False):
        _shares(panel, movement, rate)
    _movement(panels[2], movement)
    _learning(panels[3], learning)
    for panel in panels:
        panel.grid(alpha=0.3)
        if panel.get_legend_handles_labels()[0]:
            panel.legend(fontsize=7)
    figure.savefig(path, dpi=110)


def _drawn(share: Seen) -> bool:
    return share.scatter < NOISY and LIMITS[0] < share.share < LIMITS[1]


def _shares(panel: Any, movement: Sequence[Row], rate: float) -> None:
    full: dict[str, object] = {"lora": False, "learning_rate": rate}
    marks = sorted({row["new"] for row in only(movement, **full, old=0, trained_in="float32") if row["new"]})
    for view in VIEWS:
        found = [(mark, share) for mark in marks if (share := share_of(movement, full, 0, mark, view, "problem"))]
        found = [(mark, share) for mark, share in found if _drawn(share)]
        if found:
            x, shares = zip(*found, strict=True)
            errors = [share.scatter for share in shares]
            panel.errorbar(x, [share.share for share in shares], errors, color=COLOURS[view], label=view, marker=".")
    panel.set_xscale("log", base=4)
    panel.set_xticks(marks, [str(mark) for mark in marks])
    panel.set_ylim(LIMITS)
    panel.set_title(f"share of the log-ratio seen, learning rate {rate:g}", fontsize=9)
    panel.set_xlabel("updates since the first policy")


def _movement(panel: Any, movement: Sequence[Row]) -> None:
    for view in VIEWS:
        if view == TRUE.name:
            continue
        points = []
        for row in only(movement, view=view, lora=False, trained_in="float32"):
            if row["old"] == row["new"]:
                continue
            pair = {name: row[name] for name in ("lora", "learning_rate", "seed")}
            share = share_of(movement, pair, row["old"], row["new"], view, "problem")
            if share is not None and _drawn(share):
                points.append((row["movement_seen"], share.share))
        if points:
            panel.scatter(*zip(*points, strict=True), color=COLOURS[view], label=view, s=16)
    panel.plot([0, 1], [0, 1], color="#999999", linewidth=1)
    panel.set_ylim(LIMITS)
    panel.set_title("does movement_seen predict it? (all weights)", fontsize=9)
    panel.set_xlabel("movement_seen of the weights")
    panel.set_ylabel("share of the log-ratio seen")


def _learning(panel: Any, learning: Sequence[Row]) -> None:
    arms = dict.fromkeys(row["arm"] for row in learning)
    for arm, colour in zip(arms, PALETTE, strict=False):
        runs = only(learning, arm=arm)
        means = [100 * fmean(values) for values in zip(*(run["curve"] for run in runs), strict=True)]
        panel.plot(runs[0]["evaluated"], means, color=colour, label=arm, marker=".")
    panel.set_title("demo policy: sampled pass@1, %", fontsize=9)
    panel.set_xlabel("iteration")
