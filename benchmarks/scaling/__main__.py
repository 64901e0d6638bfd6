"""`python -m benchmarks.scaling`: what the parts of an iteration cost as its sizes grow."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jsonargparse import CLI

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
    iterations: int = 4,
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
        iterations: Number of iterations that are timed at each point, after one that warms up.
        output: Path of a Markdown file to write as well.
    """
    axes = {
        "group_size": group_sizes,
        "response_tokens": response_tokens,
        "prompts": prompts,
        "vocabulary": vocabularies,
        "processes": processes,
    }
    sections = [f"Machine: {describe()}\n\nBase: {base}, {iterations} iterations, minima in seconds."]
    print(sections[0], flush=True)
    measured: dict[Point, dict[str, float]] = {}
    for axis, sizes in axes.items():
        points = [replace(base, **{axis: size}) for size in sizes]
        for point in points:
            if point not in measured:
                measured[point] = measure_apart(point, iterations)
        sections.append(section(axis, sizes, [measured[point] for point in points]))
        print(f"\n{sections[-1]}", flush=True)
        save("\n\n".join(sections), output)


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
