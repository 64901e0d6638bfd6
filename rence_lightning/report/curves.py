"""The curves of the page: which series they show, and their drawing as SVG in the colours of the page."""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, islice, product
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from markupsafe import Markup

from rence_lightning.report.checks import kl_target
from rence_lightning.report.run_record import RunRecord, Series

if TYPE_CHECKING:
    from matplotlib.figure import Figure, FigureBase

LINES = {"#1a7f64": "#4fc7a5", "#3a6db3": "#82b1f1", "#b0620c": "#eda35c", "#7a5aa8": "#bb9fe6", "#9aa4a8": "#6f7b80"}
INK, GRID = "#2b3235", "#e4e8ea"
COLOURS = {**LINES, INK: "#dfe5e7", GRID: "#333c40"}
"""Colours on a light page, with those on a dark page. Red is left to what is wrong."""

STYLES = [(colour, dash) for dash, colour in product(((), (3, 1), (1, 1), (6, 1, 1, 1)), LINES)]
"""Colours and dashes of the lines in a figure: lengths on and off, in widths of the line."""

LINES_IN_LEGEND = 6
"""Largest number of lines with a legend in the figure; the table of settings has the lines too."""

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


class Drawing(NamedTuple):
    """A figure of the page: its lines by label, the ends of their bands, whether they are shares, and their colours and
    dashes."""

    title: str
    caption: str
    lines: Mapping[str, Series]
    bands: Mapping[str, list[Series]]
    percent: bool
    styles: Mapping[str, tuple[str, tuple[int, ...]]]


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
    Curve("KL", "To the sampling policy: at most about {target}, its target or the paper's.", {"iteration/kl": "KL"}),
    Curve("Entropy (nats per token)", "Near zero, exploration has ended; a rise by a multiple is randomness.",
          {"rollouts/entropy": "entropy"}),
    Curve("Response length (tokens)", "A steady rise may be reasoning; a jump to the limit{limit} is repetition.",
          {"rollouts/length": "length"}),
    Curve("Responses with a reply", "Of the environment: how often the policy calls its tool.",
          {"rollouts/replied": "with a reply"}, percent=True),
    Curve("Gradient norm", "Before clipping: a rise by a multiple comes before a collapse.",
          {"iteration/grad_norm": "norm"}),
    Curve("Engine against trainer (per token)", "Difference in log-probability: level, and near zero.",
          {"rollouts/mismatch_abs": "mean"}),
    Curve("Outcomes of the sampled groups", "With nothing kept, there is nothing to train on.",
          {"rollouts/share_kept": "kept", "rollouts/share_too_easy": "too easy", "rollouts/share_too_hard": "too hard",
           "rollouts/share_mastered": "mastered"}, percent=True),
)  # fmt: skip
"""The curves besides accuracy."""


def sample_line(number: int) -> Markup:
    """The line of a setting in the figures, as SVG, by the number of the setting."""
    colour, dash = STYLES[number % len(STYLES)]
    dashes = " ".join(str(3 * length) for length in dash) or "none"
    line = f'<path d="M1 4h28" stroke="var(--c{colour[1:]})" stroke-width="3" stroke-dasharray="{dashes}"/>'
    return Markup(f'<svg width="34" height="8" aria-hidden="true">{line}</svg>')


def figures(runs: Mapping[str, Sequence[RunRecord]]) -> list[tuple[str, str, str, str]]:
    """Title, caption, SVG, and the ends of the lines in words, of the curves for which there are points.

    Args:
        runs: The run by its name; or the runs of each of several settings by its label: a setting has one line in a
            figure, the mean of the first series over its runs where all have it, with a band for their range.
    """
    from matplotlib.figure import Figure

    drawn = []
    for drawing in _drawings(runs):
        figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), layout="constrained")
        _draw(figure, drawing)
        drawn.append((drawing.title, drawing.caption, _svg(figure), _in_words(drawing)))
    return drawn


def plot(runs: Mapping[str, Sequence[RunRecord]]) -> "Figure":
    """The first four of these curves in one figure of matplotlib."""
    from matplotlib import pyplot

    drawings = list(islice(_drawings(runs), 4))
    rows = max(1, -(-len(drawings) // 2))
    figure = pyplot.figure(figsize=(WIDTH / 36, rows * HEIGHT / 62), layout="constrained")
    pyplot.close(figure)  # of pyplot, so that a notebook shows it; closed, so that it shows it once
    parts: Any = figure.subfigures(rows, 2)
    for part, drawing in zip(parts.flat, drawings, strict=False):
        part.suptitle(drawing.title, fontsize="medium", fontweight="bold")
        _draw(part, drawing)
    return figure


def _drawings(runs: Mapping[str, Sequence[RunRecord]]) -> Iterator[Drawing]:
    """The curves for which there are points."""
    benchmarks = dict.fromkeys(name for group in runs.values() for run in group for name in run.benchmarks)
    names = {f"evaluation/{name}/avg": name for name in benchmarks}
    if len(runs) > 1 < len(benchmarks):
        names = {"evaluation/average": "mean over benchmarks"}
    caption = "Share of correct answers before training and after evaluated iterations{interval}."
    every = [run for group in runs.values() for run in group]
    targets = dict.fromkeys(f"{kl_target(run):g}" for run in every)
    limits = dict.fromkeys(run.setting("data.sampling.max_response_tokens") for run in every)
    words = {"target": " and ".join(targets), "limit": f" ({' and '.join(map(str, limits))})" if all(limits) else ""}
    for title, text, series, percent in (Curve("Accuracy", caption, names, percent=True), *CURVES):
        shown = {label: (group, name) for group in runs.values() for name, label in series.items()}
        if len(runs) > 1:
            title += f": {next(iter(series.values()), '')}" if len(series) > 1 or series is names else ""
            shown = {label: (group, next(iter(series), "")) for label, group in runs.items()}
        found = {label: _line(*each) for label, each in shown.items()}
        lines = {label: line for label, (line, _) in found.items() if len(line) > 1}
        bands = {label: found[label][1] for label in lines} if len(lines) <= 3 else {}
        ends = " or the range over seeds" if len(every) > len(runs) else ""
        words["interval"] = f", with 95% intervals{ends}" if any(low for low, _ in bands.values()) else ""
        if lines:
            styles = dict(zip(found, cycle(STYLES), strict=False))
            yield Drawing(title, text.format(**words), lines, bands, percent, styles)


def _line(runs: Sequence[RunRecord], name: str) -> tuple[Series, list[Series]]:
    """The mean of a figure over runs, where all have it, and the ends of its band: of one run the figure's interval, of
    several their range."""
    each = [dict(run.series(name)) for run in runs]
    xs = [x for x in each[0] if all(x in other for other in each)]
    mean, low, high = ([(x, of([other[x] for other in each])) for x in xs] for of in (fmean, min, max))
    ends = [low, high] if len(runs) > 1 else [runs[0].series(f"{name}_{end}") for end in ("low", "high")]
    return mean, ends


def _draw(figure: "FigureBase", drawing: Drawing) -> None:
    import matplotlib  # takes half a second to import: a model card needs none of it
    from matplotlib.ticker import MaxNLocator

    lines, percent = drawing.lines, drawing.percent
    values = [y for series in lines.values() for _, y in series]
    with matplotlib.rc_context(_STYLE):
        axes = figure.add_subplot()
        for label, series in lines.items():
            colour, dash = drawing.styles[label]
            xs, ys = zip(*series, strict=True)
            # A line between a few points shows a course that nobody measured; one of many is told apart by it.
            joined = len(xs) >= 5 or len(lines) > 2
            width, marker = 2 * joined, None if len(xs) > 9 else "." if joined else "o"
            kind: Any = {"color": colour, "ls": (0, dash) if dash else "-", "linewidth": width, "marker": marker}
            axes.plot(xs, ys, label=label, markersize=5, clip_on=False, **kind)
            low, high = ([y for _, y in end] for end in drawing.bands.get(label, ([], [])))
            if len(low) == len(high) == len(xs) and joined:
                axes.fill_between(xs, low, high, color=colour, alpha=0.2, linewidth=0)
            elif len(low) == len(high) == len(xs):
                axes.vlines(xs, low, high, color=colour, linewidth=1.5)
        bottom, top = axes.get_ylim()  # with zero: the captions compare with it, and a small change looks small
        axes.set_ylim(bottom if min(values) < 0 else 0, top if max(values) >= 0 else 0)
        axes.yaxis.set_major_formatter(lambda y, _: f"{100 * y:.3g}%" if percent else f"{y:g}")
        axes.set_xlabel("iteration")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        if 1 < len(lines) <= LINES_IN_LEGEND:
            columns = 2 if max(map(len, lines)) <= 22 else 1  # a longer label leaves no place beside it
            axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=columns, borderaxespad=0.2)


def _svg(figure: "Figure") -> str:
    """A figure as SVG in the colours of the page."""
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    for colour in COLOURS:
        svg = svg.replace(colour, f"var(--c{colour[1:]})")  # which the page sets for light and for dark
    svg = re.sub(r"(font: [\d.]+px|font-family:) [^;\"]*", r"\1 system-ui, sans-serif", svg[svg.index("<svg") :])
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', f'width="{WIDTH}" height="{HEIGHT}"', svg, count=1)


def _in_words(drawing: Drawing) -> str:
    form = ".1%" if drawing.percent else ".3g"
    return " ".join(
        f"{label}: from {before:{form}} at iteration {first:g} to {after:{form}} at iteration {last:g}."
        for label, ((first, before), *_, (last, after)) in drawing.lines.items()
    )
