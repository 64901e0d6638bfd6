"""The learning curve of one or more runs of a configuration, as a figure and as a table in Markdown.

    python -m benchmarks.learning_curve FIGURE RUN [RUN ...]

The figure has the accuracy on the held-out problems with its 95% intervals, and the share of correct responses among
those that were sampled in training.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.markdown import table
from rence_lightning.errors import UserError
from rence_lightning.report.run_record import RunRecord

# Okabe and Ito's palette, whose colours are distinguishable with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")


def curve(run: RunRecord, benchmark: str) -> list[tuple[int, float, float, float]]:
    """Iteration, accuracy, and the ends of its 95% interval, in percent, of each evaluation."""
    rows = [(line["iteration"], line["benchmarks"][benchmark]) for line in run.evaluations]
    return [(at, *(100 * row[name] for name in ("avg", "avg_low", "avg_high"))) for at, row in rows]


def draw(runs: Sequence[RunRecord], benchmark: str, path: Path) -> None:
    """Writes the figure to `path`, in the format that its suffix names."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "learning_curve"  # equal runs give equal files
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    for run, colour in zip(runs, COLOURS, strict=False):
        sampled = [(at, 100 * share) for at, share in run.series("rollouts/correct")]
        axes.plot(*zip(*sampled, strict=True), color=colour, alpha=0.35, linewidth=1)
        at, share, low, high = zip(*curve(run, benchmark), strict=True)
        errors = ([a - b for a, b in zip(share, low, strict=True)], [b - a for a, b in zip(share, high, strict=True)])
        label = f"seed {run.setting('seed_everything')}"
        axes.errorbar(at, share, yerr=errors, color=colour, marker="o", capsize=3, label=label)
    axes.set_xlabel("iteration")
    axes.set_ylabel("right answers, %")
    axes.set_title("held-out problems with 95% intervals; thin: responses sampled in training", fontsize=9)
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def markdown(runs: Sequence[RunRecord], benchmark: str) -> str:
    """A table with a row for each evaluation of each run."""
    rows = [
        [str(run.setting("seed_everything")), str(at), f"{share:.1f}", f"{low:.1f} to {high:.1f}"]
        for run in runs
        for at, share, low, high in curve(run, benchmark)
    ]
    return table(["seed", "iteration", "right answers, %", "95% interval"], rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draws the figure and prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning_curve", description=__doc__.splitlines()[0])
    parser.add_argument("figure", metavar="FIGURE", type=Path, help="file to write, .svg or .png")
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="run directories, at most five")
    options = parser.parse_args(arguments)
    try:
        runs = [RunRecord(path) for path in options.runs]
    except UserError as error:
        parser.error(str(error))
    benchmarks = set.intersection(*(set(run.benchmarks) for run in runs))
    if len(benchmarks) != 1 or len(runs) > len(COLOURS):
        parser.error(
            f"at most {len(COLOURS)} runs with one benchmark in common can be drawn, not {len(runs)} runs with "
            f"{len(benchmarks)} benchmarks in common"
        )
    (benchmark,) = benchmarks
    draw(runs, benchmark, options.figure)
    print(markdown(runs, benchmark))
    return 0


if __name__ == "__main__":
    sys.exit(main())
