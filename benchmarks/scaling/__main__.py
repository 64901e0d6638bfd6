"""`python -m benchmarks.scaling`: what the parts of an iteration cost as its sizes grow."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jsonargparse import CLI
from rich.console import Console
from rich.progress import track

from benchmarks.machine import describe
from benchmarks.markdown import save, table
from benchmarks.scaling.point import Point, measure_apart
from benchmarks.versus_trl.timing import PARTS

COLUMNS = (*PARTS, "total")
NEGLIGIBLE = 0.01
"""Seconds below which a part's growth says nothing."""


def scaling(
    base: Point = Point(),  # noqa: B008  (frozen)
    group_sizes: tuple[int, ...] = (4, 8, 16),
    response_tokens: tuple[int, ...] = (32, 64, 128, 256),
    prompts: tuple[int, ...] = (4, 8, 16),
    vocabularies: tuple[int, ...] = (512, 8192, 32768),
    processes: tuple[int, ...] = (1, 2),
    iterations: int = 3,
    rounds: int = 2,
    output: Path | None = None,
) -> None:
    """Times iterations of a small random model, and varies one size at a time around a base.

    Times are the shortest of several iterations. Growth is the exponent of a power law, by least squares on logarithms:
    1 where the time is in proportion to the size, 0 where it does not depend on it. Processes share the threads.

    Args:
        base: Sizes that stay as they are while another is varied.
        group_sizes: Numbers of responses to a prompt, K.
        response_tokens: Lengths of the responses.
        prompts: Numbers of prompts in an iteration; even, because there are two updates.
        vocabularies: Sizes of the vocabulary.
        processes: Numbers of processes.
        iterations: Number of iterations that are timed at each point in each round, after one that warms up.
        rounds: Number of rounds over all points.
        output: Path of a Markdown file to write as well.
    """
    axes = {
        "group_size": group_sizes,
        "response_tokens": response_tokens,
        "prompts": prompts,
        "vocabulary": vocabularies,
        "processes": processes,
    }
    points = {axis: [replace(base, **{axis: size}) for size in sizes] for axis, sizes in axes.items()}
    different = list(dict.fromkeys(point for of_axis in points.values() for point in of_axis))
    measured: dict[Point, dict[str, float]] = {}
    # Round by round, so that a time in which the machine is slow does not fall on all measurements of a point.
    for point in track(different * rounds, description="points", console=Console(stderr=True)):
        measured[point] = lowest(measured.get(point), measure_apart(point, iterations))
    sections = [
        f"Machine: {describe()}",
        f"Base: {base}. Seconds, the shortest of {rounds} x {iterations} iterations.",
        *(section(axis, axes[axis], [measured[point] for point in of_axis]) for axis, of_axis in points.items()),
    ]
    report = "\n\n".join(sections)
    print(report)
    save(report, output)


def lowest(before: dict[str, float] | None, new: dict[str, float]) -> dict[str, float]:
    """The shortest time of each part."""
    return new if before is None else {part: min(seconds, before[part]) for part, seconds in new.items()}


def section(axis: str, sizes: Sequence[int], measured: Sequence[dict[str, float]]) -> str:
    """The table of one size: the seconds of each part, and their growth."""
    rows = [
        [f"{size:,}", *(f"{seconds[part]:.3f}" for part in COLUMNS)]
        for size, seconds in zip(sizes, measured, strict=True)
    ]
    if len(sizes) > 1:
        growths = [growth(sizes, [seconds[part] for seconds in measured]) for part in COLUMNS]
        rows.append(["growth", *("" if each is None else f"{each:.2f}" for each in growths)])
    return table([axis, *COLUMNS], rows)


def growth(sizes: Sequence[int], seconds: Sequence[float]) -> float | None:
    """The exponent e of seconds = c * size^e by least squares on logarithms; None where the times are negligible."""
    if max(seconds) < NEGLIGIBLE or min(seconds) <= 0:
        return None
    x, y = [math.log(size) for size in sizes], [math.log(value) for value in seconds]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((value - mean_x) ** 2 for value in x)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread


if __name__ == "__main__":
    CLI(scaling, as_positional=False)
