"""How the report's figures are drawn: SVG that follows the reader's light or dark colours, with its numbers as a table.

All figures have one width, which is shown unscaled on a wide page and on a phone, so that labels keep their size.
"""

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from rence_lightning.report.numbers import number, share
from rence_lightning.report.run_record import Series

COLOURS = {
    "ink": ("#2b3235", "#dfe5e7"),
    "grid": ("#e4e8ea", "#333c40"),
    "axis": ("#9aa4a8", "#6f7b80"),
    "green": ("#1a7f64", "#4fc7a5"),
    "blue": ("#3a6db3", "#82b1f1"),
    "orange": ("#b0620c", "#eda35c"),
    "purple": ("#7a5aa8", "#bb9fe6"),
    "pale": ("#a6c1e2", "#4a678d"),
    "grey": ("#b4bdc1", "#59656a"),
}
"""Colours of the figures, on a light and on a dark page. No figure uses red, which is kept for what went wrong."""

LINES = ("green", "blue", "orange", "purple", "axis", "pale", "grey")
"""Colours of the lines of a figure, in their order."""

WIDTH, HEIGHT = 350, 215
"""Size of a figure in its own units, which are about CSS pixels."""

ROWS = 24
"""Largest number of rows of the table behind a figure, taken at equal distances from a longer series."""

FEWEST = 3
"""Number of points from which a line is drawn."""

RAW = 10
"""Number of points of a series from which it is smoothed."""

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rence",
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": COLOURS["ink"][0],
    "axes.labelcolor": COLOURS["ink"][0],
    "xtick.labelcolor": COLOURS["ink"][0],
    "ytick.labelcolor": COLOURS["ink"][0],
    "xtick.color": COLOURS["axis"][0],
    "ytick.color": COLOURS["axis"][0],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": COLOURS["axis"][0],
    "axes.grid": True,
    "grid.color": COLOURS["grid"][0],
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 11,
    "legend.handlelength": 1.2,
    "legend.columnspacing": 1.2,
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True)
class Plot:
    """A figure of the report.

    Attributes:
        title: What the figure shows, with its unit.
        caption: What to look for, in one sentence.
        svg: SVG source of the image.
        headings: Headings of the table behind the figure.
        rows: Rows of this table, as texts.
        summary: What a reader sees who does not see the figure.
    """

    title: str
    caption: str
    svg: str
    headings: list[str]
    rows: list[list[str]]
    summary: str


def colour(name: str) -> str:
    """The colour that stands for a name while the figure is drawn."""
    return COLOURS[name][0]


def draw(paint: Callable[[Axes], None], height: int = HEIGHT) -> str:
    """The SVG of a figure.

    Args:
        paint: Draws on the axes, in the colours of `colour`.
        height: Height of the figure, in the units of `WIDTH`.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH / 72, height / 72))
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        paint(axes)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None}, transparent=True)
    return _themed(file.getvalue())


def _themed(svg: str) -> str:
    """The SVG with its colours as variables, which a style sheet sets for light and dark pages."""
    for name, (light, _) in COLOURS.items():
        svg = svg.replace(light, f"var(--{name})")
    light, dark = (";".join(f"--{name}:{pair[which]}" for name, pair in COLOURS.items()) for which in (0, 1))
    style = f"<style>:root{{{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}</style>"
    # Versions of matplotlib write the font in one property or in two.
    svg = re.sub(r"(font: [\d.]+px|font-family:) [^;\"]*", r"\1 system-ui, sans-serif", svg)
    return re.sub(r"(<svg[^>]*>)", rf"\1{style}", svg, count=1)


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """The centred moving mean; at the ends, over the part of the window that has values.

    Args:
        values: Values at equal distances.
        window: Number of values of a mean.
    """
    half = window // 2
    parts = [values[max(0, at - half) : at + half + 1] for at in range(len(values))]
    return [sum(part) / len(part) for part in parts]


def line_plot(
    title: str,
    caption: str,
    lines: Mapping[str, Series],
    by: str,
    percent: bool = False,
    target: float | None = None,
    window: int = 3,
) -> Plot | None:
    """Lines over iterations or updates: long ones smoothed, above their faint raw values.

    Args:
        title: What the figure shows, with its unit.
        caption: What to look for.
        lines: Series by name; those with fewer than `FEWEST` points are left out.
        by: Meaning of the horizontal axis.
        percent: Whether the values are shares.
        target: Value to mark with a dashed line.
        window: Smallest number of values that are averaged.

    Returns:
        None where no line is left, or all values are zero.
    """
    lines = {label: series for label, series in lines.items() if len(series) >= FEWEST}
    if not any(y for series in lines.values() for _, y in series):
        return None
    logarithmic = not percent and spans(lines, target)

    def paint(axes: Axes) -> None:
        for (label, series), name in zip(lines.items(), LINES * len(lines), strict=False):
            xs, ys = zip(*series, strict=True)
            if len(series) < RAW:
                axes.plot(xs, ys, color=colour(name), label=label, linewidth=2, marker="o", markersize=3.5)
                continue
            axes.plot(xs, ys, color=colour(name), linewidth=0.8, alpha=0.4)
            smooth = smoothed(ys, max(window, len(ys) // 6))
            axes.plot(xs, smooth, color=colour(name), label=label, linewidth=2.2)
        if logarithmic:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(
                lambda y, _: f"{y:g}".replace("e-0", "e-")
            )  # the usual powers of ten have tiny exponents
            axes.yaxis.set_minor_formatter(NullFormatter())
        if target is not None:
            axes.axhline(target, color=colour("ink"), linewidth=1, linestyle="--", label=f"target {target:g}")
        finish(axes, by, percent, legend=len(lines) > 1 or target is not None)

    return Plot(title, caption, draw(paint), *table_of(lines, by, percent), described(lines, by, percent))


def spans(lines: Mapping[str, Series], target: float | None) -> bool:
    """Whether positive values span so many orders of magnitude that only a logarithmic axis shows them."""
    values = [y for series in lines.values() for _, y in series] + ([target] if target is not None else [])
    return min(values) > 0 and max(values) / min(values) > 30


def finish(axes: Axes, by: str, percent: bool, legend: bool) -> None:
    """Labels and legend of axes."""
    axes.set_xlabel(by)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    if percent:
        axes.yaxis.set_major_formatter(lambda y, _: f"{100 * y:.3g}%")
    if legend:
        longest = max(len(label) for label in axes.get_legend_handles_labels()[1])
        columns = 3 if longest <= 10 else 2
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=columns, borderaxespad=0.2)


def written(value: float, percent: bool) -> str:
    """A value of a figure as a text."""
    return share(value) if percent else number(value)


def table_of(lines: Mapping[str, Series], by: str, percent: bool) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the numbers of a figure."""
    points = {label: dict(series) for label, series in lines.items()}
    xs = sorted({x for series in lines.values() for x, _ in series})
    chosen = xs[:: math.ceil(len(xs) / ROWS)]
    if xs[-1] not in chosen:
        chosen.append(xs[-1])
    rows = [[f"{x:g}", *(written(each[x], percent) if x in each else "" for each in points.values())] for x in chosen]
    return [by, *lines], rows


def described(lines: Mapping[str, Series], by: str, percent: bool) -> str:
    """Ends and extremes of each line."""
    sentences = []
    for label, series in lines.items():
        ys = [y for _, y in series]
        first, last, low, high = (written(y, percent) for y in (ys[0], ys[-1], min(ys), max(ys)))
        ends = f"from {first} at {by} {series[0][0]:g} to {last} at {by} {series[-1][0]:g}"
        sentences.append(f"{label}: {ends}, lowest {low}, highest {high}.")
    return " ".join(sentences)


def stacked_plot(title: str, caption: str, layers: Mapping[str, Series], colours: Sequence[str], by: str,
                 percent: bool) -> Plot | None:  # fmt: skip
    """Layers on top of one another, shares smoothed; None where there are fewer than two points.

    Args:
        title: What the figure shows, with its unit.
        caption: What to look for.
        layers: Series by name, the lowest first.
        colours: Colour of each layer, by name.
        by: Meaning of the horizontal axis.
        percent: Whether the values are shares that add up to 1.
    """
    xs = sorted({x for series in layers.values() for x, _ in series})
    if len(xs) < 2:
        return None

    def paint(axes: Axes) -> None:
        values = [[dict(series).get(x, 0.0) for x in xs] for series in layers.values()]
        if percent and len(xs) >= RAW:
            values = [smoothed(each, max(3, len(xs) // 12)) for each in values]
        axes.stackplot(xs, values, labels=list(layers), colors=[colour(name) for name in colours])
        axes.set_xlim(xs[0], xs[-1])
        axes.set_ylim(0, 1 if percent else None)
        finish(axes, by, percent, legend=True)

    return Plot(title, caption, draw(paint), *table_of(layers, by, percent), described(layers, by, percent))
