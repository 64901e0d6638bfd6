"""Which figures the report shows, under the question that each of them helps to answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from rence_lightning.report.figures import (
    HEIGHT,
    LINES,
    Plot,
    colour,
    described,
    draw,
    finish,
    line_plot,
    stacked_plot,
    table_of,
)
from rence_lightning.report.numbers import share
from rence_lightning.report.run_record import RunRecord, Series
from rence_lightning.report.times import PHASES

OUTCOMES = {
    "kept": ("kept and trained on", "green"),
    "mastered": ("mastered", "blue"),
    "too_easy": ("too easy", "pale"),
    "too_hard": ("too hard", "grey"),
}
"""Name and colour of each outcome of a group."""

MOST_BANDS = 3
"""Largest number of benchmarks whose intervals are drawn as bands: more of them hide one another."""


@dataclass(frozen=True)
class Curve:
    """A figure of series of `metrics.csv`.

    Attributes:
        title: What the figure shows, with its unit.
        caption: What to look for, in one sentence.
        names: Names of the lines, by name of the series.
        percent: Whether the values are shares.
    """

    title: str
    caption: str
    names: Mapping[str, str]
    percent: bool = False


LEARNED = (
    Curve(
        "Correct in training",
        "Share of correct responses among all that were sampled; mastered prompts leave the pool, so that it may level "
        "off while the policy still improves.",
        {"rollouts/correct": "correct"},
        percent=True,
    ),
)

HEALTH = (
    Curve(
        "Log-probability since sampling (nats)",
        "The curves should separate: correct responses above zero, incorrect ones below.",
        {"iteration/positive_log_ratio": "correct", "iteration/negative_log_ratio": "incorrect"},
    ),
    Curve(
        "Entropy (nats per token)",
        "It should neither fall to zero, where exploration ends, nor rise by a multiple, where the policy is random.",
        {"rollouts/entropy": "entropy"},
    ),
    Curve(
        "Response length (tokens)",
        "A steady rise may be learned reasoning; a jump towards the limit is repetition.",
        {"rollouts/length": "mean length"},
    ),
    Curve(
        "Truncated and without an answer",
        "Both should stay near zero: such responses cannot be correct.",
        {"rollouts/truncated": "truncated", "no_answer": "no answer"},
        percent=True,
    ),
    Curve(
        "Gradient norm",
        "The norm before clipping should stay level; a rise by a multiple comes before a collapse.",
        {"train/grad_norm": "norm"},
    ),
    Curve(
        "Engine against trainer (per token)",
        "Difference in log-probability: level, and near zero, or the engine samples from another policy.",
        {"rollouts/engine_log_prob_difference": "mean", "rollouts/engine_log_prob_difference_max": "largest"},
    ),
    Curve(
        "Movement that computes",
        "Share of the trained weights' movement within an iteration that the weights which compute follow: near 100%.",
        {"iteration/movement_seen": "movement seen", "iteration/weights_changed": "weights changed"},
        percent=True,
    ),
)

FURTHER = (
    Curve("Loss", "Objective plus KL penalty of each update; its level says little.", {"train/loss": "loss"}),
    Curve("Mean reward", "Mean reward of all sampled responses.", {"rollouts/reward": "reward"}),
    Curve(
        "KL coefficient",
        "It rises while the KL is above its target, and falls while it is below.",
        {"train/kl_coef": "lambda"},
    ),
    Curve("Learning rate", "The learning rate of each update.", {"train/learning_rate": "learning rate"}),
    Curve(
        "Clipped tokens",
        "Share of tokens whose ratio was clipped, for objectives that clip.",
        {"train/clip_share": "clipped"},
        percent=True,
    ),
)


def curves(run: RunRecord, chosen: Sequence[Curve]) -> list[Plot]:
    """The figures for which the run has points enough, not all of them zero."""
    return present(
        [
            line_plot(
                curve.title,
                curve.caption,
                {label: _series(run, name) for name, label in curve.names.items()},
                "update" if next(iter(curve.names)).startswith("train/") else "iteration",
                curve.percent,
                window=max(3, round(run.updates / run.iterations)) if run.iterations else 3,
            )
            for curve in chosen
        ]
    )


def _series(run: RunRecord, name: str) -> Series:
    if name == "no_answer":
        return [(x, 1 - boxed) for x, boxed in run.series("rollouts/answered")]
    return run.series(name)


def kl_curve(run: RunRecord, target: float | None) -> Plot | None:
    """KL of each iteration, with its target."""
    caption = "Mean KL to the policy that sampled: it should stay below, or around, its target."
    return line_plot("KL", caption, {"KL": run.series("iteration/kl")}, "iteration", target=target)


def accuracy_curve(run: RunRecord) -> Plot | None:
    """avg@k of every benchmark over training, with confidence intervals; None for a single evaluation."""
    if len(run.evaluations) < 2:
        return None
    lines: dict[str, Series] = {}
    bands: dict[str, list[tuple[float, float, float]]] = {}
    for name in run.benchmarks:
        rows = [(line["iteration"], line["benchmarks"][name]) for line in run.evaluations if name in line["benchmarks"]]
        lines[name] = [(x, row["avg"]) for x, row in rows]
        bands[name] = [(x, row["avg_low"], row["avg_high"]) for x, row in rows if "avg_low" in row]

    def paint(axes: Axes) -> None:
        for number, ((name, series), shade) in enumerate(zip(lines.items(), LINES * len(lines), strict=False)):
            if len(bands[name]) > 1 and len(lines) <= MOST_BANDS:
                xs, low, high = zip(*bands[name], strict=True)
                axes.fill_between(xs, low, high, color=colour(shade), alpha=0.2, linewidth=0)
            xs, ys = zip(*series, strict=True)
            style = "-" if number < 3 else "--"
            axes.plot(xs, ys, style, color=colour(shade), label=name, linewidth=2, marker="o", markersize=4)
        finish(axes, "iteration", percent=True, legend=len(lines) > 1)

    height = HEIGHT + 18 * max(0, (len(lines) - 1) // 2)  # for the rows of the legend
    band = " with its 95% interval" if len(lines) <= MOST_BANDS else ""
    what = f"Accuracy on {run.benchmarks[0]}" if len(lines) == 1 else "Accuracy on the benchmarks"
    return Plot(
        what,
        f"avg@k before training and after each evaluated iteration{band}.",
        draw(paint, height),
        *table_of(lines, "iteration", percent=True),
        described(lines, "iteration", percent=True),
    )


def time_plot(run: RunRecord) -> Plot | None:
    """Seconds of each phase in each iteration."""
    layers = {phase.name: run.series(f"time/{key}") for key, phase in PHASES.items()}
    layers = {name: [(x, y) for x, y in series if x > 0] for name, series in layers.items()}
    shades = [phase.colour for phase in PHASES.values() if any(y for _, y in layers[phase.name])]
    layers = {name: series for name, series in layers.items() if any(y for _, y in series)}
    caption = (
        "Rollouts usually take most of it; peaks are evaluations, and a rise comes with longer responses or "
        "more groups sampled for each that is kept."
    )
    return stacked_plot("Seconds of each iteration", caption, layers, shades, "iteration", percent=False)


def outcome_plot(run: RunRecord) -> Plot | None:
    """The outcomes of the sampled groups over the iterations."""
    layers = {name: run.series(f"rollouts/share_{key}") for key, (name, _) in OUTCOMES.items()}
    caption = "As the policy learns, prompts move from too hard to kept to too easy; with nothing kept, the run ends."
    shades = [shade for _, shade in OUTCOMES.values()]
    return stacked_plot("Outcomes of the sampled groups", caption, layers, shades, "iteration", percent=True)


def pool_curve(run: RunRecord) -> Plot | None:
    """Number of prompts that are not mastered."""
    caption = "Training prompts that are not mastered: where it nears zero, the run has done its work."
    return line_plot("Prompts left", caption, {"prompts": run.series("rollouts/prompts_left")}, "iteration")


def distributions(run: RunRecord) -> list[Plot]:
    """Response lengths and rewards in the first and the last logged iteration."""
    logged = sorted(run.rollout_files)
    lengths: dict[str, list[float]] = {}
    rewards: dict[str, list[float]] = {}
    for iteration in dict.fromkeys(logged[:1] + logged[-1:]):
        responses = [response for group in run.groups(iteration) for response in group["responses"]]
        if responses:
            lengths[f"iteration {iteration}"] = [response["tokens"] for response in responses]
            rewards[f"iteration {iteration}"] = [response["reward"] for response in responses]
    if not lengths:
        return []
    return [
        _bars("Response lengths (tokens)", "A peak at the right end consists of truncated responses.", lengths),
        _bars("Rewards", "Training should move responses to the right, towards the higher rewards.", rewards),
    ]


def _bars(title: str, caption: str, values: Mapping[str, Sequence[float]]) -> Plot:
    """A bar for each distinct value, or for each of twelve ranges where there are more than eight."""
    levels = sorted({round(each, 6) for group in values.values() for each in group})
    places = {level: place for place, level in enumerate(levels)}
    labels = [f"{level:g}" for level in levels]
    if len(levels) > 8:
        low, width = levels[0], (levels[-1] - levels[0]) / 12
        places = {level: min(11, int((level - low) / width)) for level in levels}
        labels = [f"{low + place * width:.3g}" for place in range(12)]
    shares = {
        name: [sum(places[round(each, 6)] == place for each in group) / len(group) for place in range(len(labels))]
        for name, group in values.items()
    }

    def paint(axes: Axes) -> None:
        for number, ((name, heights), shade) in enumerate(zip(shares.items(), ("grey", "green"), strict=False)):
            middle = [place + (number - (len(shares) - 1) / 2) * 0.4 for place in range(len(labels))]
            axes.bar(middle, heights, width=0.4, color=colour(shade), label=name)
        finish(axes, "", percent=True, legend=True)
        shown = range(0, len(labels), 1 if len(labels) <= 8 else 3)
        axes.set_xticks(list(shown), [labels[place] for place in shown])

    rows = [[label, *(share(heights[place]) for heights in shares.values())] for place, label in enumerate(labels)]
    tops = [f"{name}: most often {labels[heights.index(max(heights))]}." for name, heights in shares.items()]
    return Plot(title, caption, draw(paint), ["from" if len(levels) > 8 else "value", *shares], rows, " ".join(tops))


def present(plots: Sequence[Plot | None]) -> list[Plot]:
    """The figures for which there are data."""
    return [plot for plot in plots if plot is not None]
