"""The report's figures, each an SVG image as text."""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from rence_lightning.report.run_record import RunRecord, Series

OUTCOMES = {
    "kept": ("kept and trained on", "#2a7f62"),
    "cached": ("kept for the next iteration", "#8fc1a9"),
    "mastered": ("mastered, leaves the pool", "#4a6fa5"),
    "too_easy": ("too easy", "#a9bcd6"),
    "too_hard": ("too hard", "#c8553d"),
}
"""What becomes of a group: its name for people, its colour."""

LINES = ("#2a7f62", "#c8553d", "#4a6fa5", "#b8860b", "#7b5ea7", "#5f6b6d", "#d98880")
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rence",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa3a6",
    "axes.grid": True,
    "grid.color": "#e6e9ea",
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True)
class Plot:
    """A figure of the report.

    Attributes:
        svg: The image.
        caption: What it shows, and what to look for in it.
    """

    svg: str
    caption: str


def _draw(draw: Callable[[Axes], None], title: str, wide: bool = False) -> str:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(9.2 if wide else 4.5, 2.9 if wide else 2.6))
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        draw(axes)
        axes.set_title(title)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def _lines(axes: Axes, lines: Mapping[str, Series], by: str, percent: bool) -> None:
    for (label, series), colour in zip(lines.items(), LINES * len(lines), strict=False):
        xs, ys = zip(*series, strict=True)
        marker = "o" if len(series) < 30 else None
        axes.plot(xs, ys, color=colour, label=label, linewidth=1.5, marker=marker, markersize=3)
    axes.set_xlabel(by)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    if len(lines) > 1:
        axes.legend(loc="best")


def evaluation_curve(run: RunRecord) -> Plot | None:
    """avg@k of every benchmark over training, with its confidence interval."""
    if len(run.evaluations) < 2:
        return None

    def draw(axes: Axes) -> None:
        curves: dict[str, Series] = {}
        for name, colour in zip(run.benchmarks, LINES * len(run.benchmarks), strict=False):
            lines = [line for line in run.evaluations if name in line["benchmarks"]]
            xs, rows = [line["iteration"] for line in lines], [line["benchmarks"][name] for line in lines]
            curves[name] = [(x, row["avg"]) for x, row in zip(xs, rows, strict=True)]
            if all("avg_low" in row for row in rows):
                low, high = [row["avg_low"] for row in rows], [row["avg_high"] for row in rows]
                axes.fill_between(xs, low, high, color=colour, alpha=0.15, linewidth=0)
        _lines(axes, curves, "iteration", percent=True)

    caption = "Accuracy (avg@k), before the first and after the iterations evaluated; the band is its 95% interval."
    return Plot(_draw(draw, "Accuracy on the benchmarks", wide=True), caption)


def outcomes(run: RunRecord) -> Plot | None:
    """What became of the sampled groups, over the iterations."""
    shares = {outcome: run.series(f"rollouts/share_{outcome}") for outcome in OUTCOMES}
    shares = {outcome: series for outcome, series in shares.items() if series}
    if not shares or len(next(iter(shares.values()))) < 2:
        return None

    def draw(axes: Axes) -> None:
        xs = [x for x, _ in next(iter(shares.values()))]
        values = [[dict(series).get(x, 0.0) for x in xs] for series in shares.values()]
        labels = [OUTCOMES[outcome][0] for outcome in shares]
        axes.stackplot(xs, values, labels=labels, colors=[OUTCOMES[outcome][1] for outcome in shares])
        axes.set_xlim(xs[0], xs[-1])
        axes.set_ylim(0, 1)
        axes.set_xlabel("iteration")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))

    caption = (
        "The share of sampled prompts that were kept, too easy, too hard or mastered. As the policy learns, prompts "
        "move from too hard to kept to too easy; a run with nothing left to keep has run out of prompts."
    )
    return Plot(_draw(draw, "What became of the sampled prompts", wide=True), caption)


@dataclass(frozen=True)
class _Curve:
    title: str
    names: Mapping[str, str]
    caption: str
    percent: bool = False


_CURVES = (
    _Curve(
        "Right answers while training",
        {"rollouts/correct": "correct", "rollouts/boxed": "boxed", "rollouts/truncated": "truncated"},
        "Of all responses sampled, before filtering: right, with a boxed answer, cut off at the length limit.",
        percent=True,
    ),
    _Curve("Response length", {"rollouts/length": "tokens"}, "Mean tokens of the responses sampled."),
    _Curve(
        "Reward",
        {"rollouts/reward": "mean reward"},
        "Mean reward of the responses sampled.",
    ),
    _Curve("Loss", {"train/loss": "loss"}, "Of each update: the objective and the KL penalty."),
    _Curve(
        "KL to the old policy",
        {"train/kl": "KL"},
        "Of each update, from the policy that sampled. It starts each iteration at zero.",
    ),
    _Curve("KL coefficient", {"train/kl_coef": "lambda"}, "Adapted after each update so that the KL meets its target."),
    _Curve(
        "Gradient norm", {"train/grad_norm": "norm"}, "Of each update, before clipping. Spikes announce instability."
    ),
    _Curve(
        "Log-probability since sampling",
        {"train/positive_log_ratio": "right responses", "train/negative_log_ratio": "wrong responses"},
        "How much likelier responses became within an iteration, in nats. The two should part; where right responses "
        "fall, the policy moves away from what it should learn.",
    ),
    _Curve(
        "Entropy",
        {"rollouts/entropy": "entropy"},
        "Nats a token, of what is trained on. At zero nothing is explored.",
    ),
    _Curve("Prompts left", {"rollouts/prompts_left": "prompts"}, "Training prompts that are not mastered."),
    _Curve(
        "Engine against trainer",
        {"rollouts/engine_log_prob_difference": "mean", "rollouts/engine_log_prob_difference_max": "largest"},
        "Difference of a token's log-probability between the engine that sampled and the trainer: near zero, or the "
        "engine samples from another policy.",
    ),
)


def curves(run: RunRecord) -> list[Plot]:
    """The figures of `metrics.csv` that tell how a run went."""
    plots = []
    for curve in _CURVES:
        lines = {label: run.series(name) for name, label in curve.names.items()}
        lines = {label: series for label, series in lines.items() if len(series) > 1}
        if not lines or all(y == 0 for series in lines.values() for _, y in series):
            continue
        by = "update" if next(iter(curve.names)).startswith("train/") else "iteration"

        def draw(axes: Axes, lines: Mapping[str, Series] = lines, by: str = by, percent: bool = curve.percent) -> None:
            _lines(axes, lines, by, percent)

        plots.append(Plot(_draw(draw, curve.title), curve.caption))
    return plots


def distributions(run: RunRecord) -> list[Plot]:
    """Response lengths and rewards in the first, a middle and the last iteration that was logged."""
    logged = sorted(run.rollout_files)
    if not logged:
        return []
    chosen = list(dict.fromkeys((logged[0], logged[len(logged) // 2], logged[-1])))
    lengths: dict[str, list[float]] = {}
    rewards: dict[str, list[float]] = {}
    for iteration in chosen:
        responses = [response for group in run.groups(iteration) for response in group["responses"]]
        if responses:
            lengths[f"iteration {iteration}"] = [response["tokens"] for response in responses]
            rewards[f"iteration {iteration}"] = [response["reward"] for response in responses]
    if not lengths:
        return []
    return [
        Plot(
            _draw(lambda axes: _histogram(axes, lengths, "tokens", 24), "Response lengths"),
            "Of all responses sampled. A heap at the right end are responses cut off at the limit.",
        ),
        Plot(
            _draw(lambda axes: _bars(axes, rewards), "Rewards"),
            "Of all responses sampled.",
        ),
    ]


def _histogram(axes: Axes, values: Mapping[str, Sequence[float]], unit: str, bins: int) -> None:
    low, high = min(map(min, values.values())), max(map(max, values.values()))
    for (label, each), colour in zip(values.items(), LINES, strict=False):
        weights = [1 / len(each)] * len(each)
        axes.hist(each, bins=bins, range=(low, max(high, low + 1)), weights=weights, color=colour, label=label,
                  histtype="step", linewidth=1.5)  # fmt: skip
    axes.set_xlabel(unit)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.legend()


def _bars(axes: Axes, values: Mapping[str, Sequence[float]]) -> None:
    """A bar for each reward where they are few, a histogram where they are many."""
    levels = sorted({round(value, 6) for each in values.values() for value in each})
    if len(levels) > 8:
        _histogram(axes, values, "reward", 20)
        return
    width = 0.8 / len(values)
    for number, ((label, each), colour) in enumerate(zip(values.items(), LINES, strict=False)):
        shares = [sum(round(value, 6) == level for value in each) / len(each) for level in levels]
        places = [place + (number - (len(values) - 1) / 2) * width for place in range(len(levels))]
        axes.bar(places, shares, width=width, color=colour, label=label)
    axes.set_xticks(range(len(levels)), [f"{level:g}" for level in levels])
    axes.set_xlabel("reward")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.legend()


def every_plot(plots: Iterable[Plot | None]) -> list[Plot]:
    """Those that there is something to draw for."""
    return [plot for plot in plots if plot is not None]
