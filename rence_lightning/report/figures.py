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
    "mastered": ("mastered, leaves the pool", "#4a6fa5"),
    "too_easy": ("too easy", "#a9bcd6"),
    "too_hard": ("too hard", "#c8553d"),
}
"""Description and colour of each outcome of a group."""

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
        svg: SVG source of the image.
        caption: Description of what the figure shows, and of what to look for.
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
    """avg@k of every benchmark over training, with confidence intervals."""
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

    caption = "Accuracy (avg@k) before training and after each evaluated iteration; the band is the 95% interval."
    return Plot(_draw(draw, "Accuracy on the benchmarks", wide=True), caption)


def outcomes(run: RunRecord) -> Plot | None:
    """The outcomes of the sampled groups over the iterations."""
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
        "move from too hard to kept to too easy; a run in which no group is kept has run out of useful prompts."
    )
    return Plot(_draw(draw, "Outcomes of the sampled prompts", wide=True), caption)


@dataclass(frozen=True)
class _Curve:
    title: str
    names: Mapping[str, str]
    caption: str
    percent: bool = False


_CURVES = (
    _Curve(
        "Correct answers in training",
        {"rollouts/correct": "correct", "rollouts/boxed": "boxed", "rollouts/truncated": "truncated"},
        "Shares of all sampled responses, before filtering: correct, with a boxed answer, truncated.",
        percent=True,
    ),
    _Curve("Response length", {"rollouts/length": "tokens"}, "Mean number of tokens of the sampled responses."),
    _Curve(
        "Reward",
        {"rollouts/reward": "mean reward"},
        "Mean reward of the sampled responses.",
    ),
    _Curve("Loss", {"train/loss": "loss"}, "Loss of each update: the objective plus the KL penalty."),
    _Curve(
        "KL to the old policy",
        {"train/kl": "KL"},
        "KL divergence at each update from the policy that sampled. It is zero at the start of each iteration.",
    ),
    _Curve(
        "KL coefficient",
        {"train/kl_coef": "lambda"},
        "Coefficient of the KL penalty, adapted after each update to keep the KL near its target.",
    ),
    _Curve(
        "Gradient norm",
        {"train/grad_norm": "norm"},
        "Gradient norm of each update, before clipping. Spikes are a sign of instability.",
    ),
    _Curve(
        "Log-probability since sampling",
        {"train/positive_log_ratio": "correct responses", "train/negative_log_ratio": "incorrect responses"},
        "Change of the responses' log-probability within an iteration, in nats. The two curves should separate; where "
        "the one of correct responses falls, the policy moves away from what it should learn.",
    ),
    _Curve(
        "Entropy",
        {"rollouts/entropy": "entropy"},
        "Entropy of the policy in nats per token, on the responses trained on. At zero there is no exploration.",
    ),
    _Curve("Prompts left", {"rollouts/prompts_left": "prompts"}, "Number of training prompts that are not mastered."),
    _Curve(
        "Engine against trainer",
        {"rollouts/engine_log_prob_difference": "mean", "rollouts/engine_log_prob_difference_max": "largest"},
        "Difference between the engine and the trainer in the log-probability of a token. It should be near zero; "
        "otherwise the engine samples from a different policy.",
    ),
)


def curves(run: RunRecord) -> list[Plot]:
    """The figures of `metrics.csv` that show the course of a run."""
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
    """Response lengths and rewards in the first, the middle and the last logged iteration."""
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
            "Lengths of all sampled responses. A peak at the right end consists of truncated responses.",
        ),
        Plot(
            _draw(lambda axes: _bars(axes, rewards), "Rewards"),
            "Rewards of all sampled responses.",
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
    """A bar for each distinct reward, or a histogram where there are more than eight."""
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
    """The figures for which there are data."""
    return [plot for plot in plots if plot is not None]
