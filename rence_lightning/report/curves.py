"""The curves of the page: which series they show, and their drawing as SVG in the colours of the page."""

import io
import re
from collections.abc import Mapping
from itertools import cycle
from typing import Any, NamedTuple

from rence_lightning.report.checks import kl_target
from rence_lightning.report.run_record import RunRecord, Series

LINES = {"#1a7f64": "#4fc7a5", "#3a6db3": "#82b1f1", "#b0620c": "#eda35c", "#7a5aa8": "#bb9fe6", "#9aa4a8": "#6f7b80"}
INK, GRID = "#2b3235", "#e4e8ea"
COLOURS = {**LINES, INK: "#dfe5e7", GRID: "#333c40"}
"""Colours on a light page, with those on a dark page. Red is left to what is wrong."""

WIDTH, HEIGHT = 350, 215
"""Size of a figure in CSS pixels, which suits a telephone and a wide page without scaling."""

_STYLE: Any = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"), INK),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon", "text.parse_math"), False),
    **dict.fromkeys(("font.size", "legend.fontsize"), 11),
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "svg.fonttype": "none",
    "svg.hashsalt": "rence",
}


class Curve(NamedTuple):
    """Title and unit, what to look for (with `{target}` and `{limit}` of the runs), names of the lines by series of
    `metrics.csv`, and whether it is a share."""

    title: str
    caption: str
    names: Mapping[str, str]
    percent: bool = False


CURVES = (
    Curve("Correct in training", "Mastered prompts leave the pool: it may level off while the policy improves.",
          {"rollouts/correct": "correct"}, percent=True),
    Curve("Log-probability since sampling (nats)", "Correct responses should rise, incorrect ones fall.",
          {"iteration/positive_log_ratio": "correct", "iteration/negative_log_ratio": "incorrect"}),
    Curve("Loss on held-out demonstrations (nats per token)", "A rise means that the others are learned by heart.",
          {"evaluation/loss": "loss"}),
    Curve("KL", "To the policy that sampled: it should stay around or below {target}, its target or the paper's.",
          {"iteration/kl": "KL"}),
    Curve("Entropy (nats per token)", "Near zero, exploration has ended; a rise by a multiple is randomness.",
          {"rollouts/entropy": "entropy"}),
    Curve("Response length (tokens)",
          "A steady rise may be learned reasoning; a jump to the limit{limit} is repetition.",
          {"rollouts/length": "length"}),
    Curve("Gradient norm", "Before clipping: a rise by a multiple comes before a collapse.",
          {"iteration/grad_norm": "norm"}),
    Curve("Engine against trainer (per token)", "Difference in log-probability: level, and near zero.",
          {"rollouts/mismatch_abs": "mean"}),
    Curve("Outcomes of the sampled groups", "With nothing kept, there is nothing to train on.",
          {"rollouts/share_kept": "kept", "rollouts/share_too_easy": "too easy", "rollouts/share_too_hard": "too hard",
           "rollouts/share_mastered": "mastered"}, percent=True),
)  # fmt: skip
"""The curves besides accuracy."""


def figures(runs: Mapping[str, RunRecord]) -> list[tuple[str, str, str, str]]:
    """Title, caption, SVG, and the ends of the lines in words, of the curves for which there are points.

    Args:
        runs: Runs by name; each of several has one line in a figure, that of the first series.
    """
    benchmarks = dict.fromkeys(name for run in runs.values() for name in run.benchmarks)
    names = {f"evaluation/{name}/avg": name for name in benchmarks}
    if len(runs) > 1 < len(benchmarks):
        names = {"evaluation/average": "mean over benchmarks"}
    caption = "Share of correct answers before training and after evaluated iterations{interval}."
    targets = dict.fromkeys(f"{kl_target(run):g}" for run in runs.values())
    limits = dict.fromkeys(run.setting("data.sampling.max_response_tokens") for run in runs.values())
    words = {"target": " and ".join(targets), "limit": f" ({' and '.join(map(str, limits))})" if all(limits) else ""}
    drawn = []
    for title, text, series, percent in (Curve("Accuracy", caption, names, percent=True), *CURVES):
        shown = {label: (run, name) for run in runs.values() for name, label in series.items()}
        if len(runs) > 1:
            title += f": {next(iter(series.values()))}" if len(series) > 1 else ""
            shown = {run_name: (run, next(iter(series), "")) for run_name, run in runs.items()}
        lines = {label: run.series(name) for label, (run, name) in shown.items()}
        lines = {label: line for label, line in lines.items() if len(line) > 1}
        bands = {
            label: [shown[label][0].series(f"{shown[label][1]}_{end}") for end in ("low", "high")]
            for label in (lines if len(lines) <= 3 else ())
        }
        interval = ", with 95% intervals" if any(low for low, _ in bands.values()) else ""
        text = text.format(interval=interval, **words)
        if lines:
            drawn.append((title, text, _draw(lines, bands, percent), _in_words(lines, ".1%" if percent else ".3g")))
    return drawn


def _draw(lines: Mapping[str, Series], bands: Mapping[str, list[Series]], percent: bool) -> str:
    import matplotlib  # takes half a second to import: a model card needs none of it
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    values = [y for series in lines.values() for _, y in series]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), layout="constrained")
        axes = figure.add_subplot()
        for (label, series), colour in zip(lines.items(), cycle(LINES), strict=False):
            xs, ys = zip(*series, strict=True)
            joined = len(xs) >= 5  # a line between two or three points shows a course that nobody measured
            width, marker = 2 * joined, None if len(xs) > 9 else "." if joined else "o"
            axes.plot(xs, ys, color=colour, label=label, linewidth=width, marker=marker, markersize=5, clip_on=False)
            low, high = ([y for _, y in end] for end in bands.get(label, ([], [])))
            if len(low) == len(high) == len(xs) and joined:
                axes.fill_between(xs, low, high, color=colour, alpha=0.2, linewidth=0)
            elif len(low) == len(high) == len(xs):
                axes.vlines(xs, low, high, color=colour, linewidth=1.5)
        bottom, top = axes.get_ylim()  # with zero: the captions compare with it, and a small change looks small
        axes.set_ylim(bottom if min(values) < 0 else 0, top if max(values) >= 0 else 0)
        axes.yaxis.set_major_formatter(lambda y, _: f"{100 * y:.3g}%" if percent else f"{y:g}")
        axes.set_xlabel("iteration")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        if len(lines) > 1:
            axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, borderaxespad=0.2)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    for colour in COLOURS:
        svg = svg.replace(colour, f"var(--c{colour[1:]})")  # which the page sets for light and for dark
    svg = re.sub(r"(font: [\d.]+px|font-family:) [^;\"]*", r"\1 system-ui, sans-serif", svg[svg.index("<svg") :])
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', f'width="{WIDTH}" height="{HEIGHT}"', svg, count=1)


def _in_words(lines: Mapping[str, Series], form: str) -> str:
    return " ".join(
        f"{label}: from {before:{form}} at iteration {first:g} to {after:{form}} at iteration {last:g}."
        for label, ((first, before), *_, (last, after)) in lines.items()
    )
