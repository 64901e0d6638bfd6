"""The figures of the page "When does ReNCE win?", readable at the width of a telephone."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.study.levels import Levels, budgets_of
from benchmarks.study.spec import REFERENCE, QuestionSpec
from benchmarks.study.tables_figures import COLOURS, MARKERS, WIDTH, clip, draw_dot, save_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_glance(levels: Levels, path: Path) -> None:
    """Writes all differences: a row of panels for each question, a column for each budget."""
    with styled():
        save_figure(glance(levels), path)


def draw_levels(levels: Levels, question: QuestionSpec, path: Path) -> None:
    """Writes the accuracy of each method against the level, a panel for each budget."""
    with styled():
        save_figure(accuracy(levels, question), path)


def glance(levels: Levels) -> "Figure":
    """The figure of `draw_glance`."""
    from matplotlib.figure import Figure

    sizes = budgets_of(levels.spec)
    labels = {
        each.question.name: [(level, rival) for level in each.levels for rival in each.methods if rival != REFERENCE]
        for each in levels.questions
    }
    heights = [0.19 * len(pairs) + 0.95 for pairs in labels.values()]
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    rows = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False).flat
    for row, each in zip(rows, levels.questions, strict=True):
        row.suptitle(each.question.title, fontsize=10, fontweight="bold")
        pairs = labels[each.question.name]
        panels = row.subplots(1, len(sizes), sharex=True, sharey=True)
        found = {
            budget: {(one.level, one.rival): one.difference for one in levels.comparisons(budget, [each])}
            for budget in sizes
        }
        end = clip([one for each_budget in found.values() for one in each_budget.values()])
        for panel, (budget, size) in zip(panels, sizes.items(), strict=True):
            panel.set_title(f"at {size}")
            panel.axvline(0, color="black", linewidth=0.8)
            panel.grid(axis="x", alpha=0.3)
            for place, pair in enumerate(pairs):
                if pair in found[budget]:
                    draw_dot(panel, place, found[budget][pair], end, ahead=1)
            panel.set_xlim(-1.08 * end, 1.08 * end)
            panel.set_ylim(len(pairs) - 0.4, -0.6)
        panels[0].set_yticks(range(len(pairs)), [f"{level}, {rival}" for level, rival in pairs])
        row.supxlabel(f"{REFERENCE} minus the method", fontsize=9)
    return figure


def accuracy(levels: Levels, each: QuestionSpec) -> "Figure":
    """The figure of `draw_levels`."""
    from matplotlib.figure import Figure

    sizes = budgets_of(levels.spec)
    figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
    panels = figure.subplots(1, len(sizes), sharey=True)
    places = range(len(each.levels))
    for panel, (budget, size) in zip(panels, sizes.items(), strict=True):
        for number, (method, colour, marker) in enumerate(zip(each.methods, COLOURS, MARKERS, strict=False)):
            found = [levels.mean(each.question.name, level, method, budget) for level in each.levels]
            drawn = [(place, one) for place, one in zip(places, found, strict=True) if one is not None]
            if not drawn:
                continue
            bars = np.nan_to_num([[o.mean - o.low for _, o in drawn], [o.high - o.mean for _, o in drawn]])
            shift = 0.08 * (number - (len(each.methods) - 1) / 2)
            panel.errorbar(
                [place + shift for place, _ in drawn],
                [one.mean for _, one in drawn],
                bars,
                label=method,
                color=colour,
                marker=marker,
                markersize=4,
                linewidth=1.2,
            )
        panel.set_title(f"at {size}")
        panel.set_xticks(places, [level.replace(", ", ",\n") for level in each.levels])
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("pass@1, %")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure
