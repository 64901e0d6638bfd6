"""`python -m benchmarks.memory`: peak memory of an update and of the output projection."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import torch
from jsonargparse import CLI
from rich.console import Console
from rich.progress import track

from benchmarks.machine import describe
from benchmarks.markdown import save, table
from benchmarks.memory.head import ways
from benchmarks.memory.point import HeadPoint, Layout, UpdatePoint, measure_apart

Part = Literal["head", "length", "vocabulary"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
COPIES = 4
"""Number of tensors of the size of all logits that a naive update holds at a time."""

TOLERANCE = 1e-4
"""Largest relative difference of a float32 gradient from the exact one that is still due to rounding."""


def memory(
    parts: tuple[Part, ...] = ("head", "length", "vocabulary"),
    device: Literal["cpu", "cuda"] = "cpu",
    dtype: Literal["float32", "bfloat16"] = "float32",
    head_tokens: int = 1024,
    head_hidden: int = 512,
    lengths: tuple[int, ...] = (64, 256, 1024),
    vocabularies: tuple[int, ...] = (512, 32000, 151936),
    output: Path | None = None,
) -> None:
    """Measures peak memory and time, each point in a process of its own.

    On a CPU, memory is the growth of the peak of resident memory; on a GPU, that of the memory which torch allocates.
    Weights and gradients of the model are there before, and not counted; the gradient of the output projection is.

    Args:
        parts: Tables to make: `head` compares ways to get log-probabilities, `length` and `vocabulary` compare layouts
            of an update.
        device: Device to run on.
        dtype: Data type of the states and weights of the table `head`.
        head_tokens: Number of response tokens of the table `head`.
        head_hidden: Size of the hidden states of the table `head`.
        lengths: Lengths of the longest response, in tokens, of the table `length`.
        vocabularies: Sizes of the vocabulary of the table `vocabulary`; the largest is that of the table `head`.
        output: Path of a Markdown file to write as well.
    """
    sections = [f"Machine: {describe()}"]
    print(sections[0], flush=True)
    middle, largest = vocabularies[len(vocabularies) // 2], max(vocabularies)
    by_length = {f"{length:,}": (length, middle) for length in lengths}
    by_vocabulary = {f"{size:,}": (lengths[len(lengths) // 2], size) for size in vocabularies}
    tables: dict[Part, Callable[[], str]] = {
        "head": lambda: head_table(head_tokens, head_hidden, largest, dtype, device),
        "length": lambda: layouts_table("longest response", by_length, device),
        "vocabulary": lambda: layouts_table("vocabulary", by_vocabulary, device),
    }
    for part in parts:
        sections.append(tables[part]())
        print(f"\n{sections[-1]}", flush=True)
        save("\n\n".join(sections), output)


def head_table(tokens: int, hidden: int, vocabulary: int, dtype: str, device: str) -> str:
    """Ways to get log-probabilities, and which of them can serve an objective that couples responses."""
    rows = []
    chosen = ways(torch.device(device)).items()
    for key, way in track(chosen, description="output projection", console=Console(stderr=True)):
        if way.skip:
            rows.append([way.title, "", "", way.skip])
            continue
        figures = measure_apart(HeadPoint(key, tokens, hidden, vocabulary, dtype, device))
        rows.append([way.title, *_cost(figures), verdict(figures["error"])])
    title = (
        f"Output projection, forward and backward: {tokens:,} tokens, hidden size {hidden:,}, vocabulary "
        f"{vocabulary:,}, {dtype} on {device}. A way serves an objective that couples responses if its gradient is "
        "right for arbitrary weights on the tokens, given after the forward pass."
    )
    return f"{title}\n\n{table(['way', 'peak memory', 'seconds', 'serves coupled responses'], rows)}"


def verdict(error: float) -> str:
    """Whether a way serves objectives that couple responses, from the relative error of its gradient."""
    if math.isinf(error):
        return "no: one scalar"
    return f"yes (error {error:.0e})" if error <= TOLERANCE else f"no: WRONG GRADIENT, error {error:.0e}"


def layouts_table(name: str, points: dict[str, tuple[int, int]], device: str) -> str:
    """Layouts of an update at several points, each a length of the longest response and a size of the vocabulary."""
    header = [name, *(f"{layout}: {what}" for layout in LAYOUTS for what in ("memory", "seconds"))]
    rows = []
    for label, (length, vocabulary) in track(points.items(), description=name, console=Console(stderr=True)):
        points_of_row = [UpdatePoint(layout, length, vocabulary, device=device) for layout in LAYOUTS]
        rows.append([label, *(cell for point in points_of_row for cell in _layout_cost(point))])
    length, vocabulary = next(iter(points.values()))
    shape = UpdatePoint("packed", length, vocabulary)
    fixed = f"vocabulary {vocabulary:,}" if name != "vocabulary" else f"longest response {length:,} tokens"
    title = (
        f"One update in one pass: a prompt of {shape.prompt_tokens} tokens with {shape.group_size} responses, "
        f"of an eighth to all of the longest's tokens; hidden size {shape.hidden}, {shape.layers} layers, {fixed}, "
        f"float32 on {device}. `naive` holds the logits of all positions."
    )
    return f"{title}\n\n{table(header, rows)}"


def _layout_cost(point: UpdatePoint) -> tuple[str, str]:
    """Memory and seconds of a layout; one that would exhaust the machine's memory is not run."""
    needed = COPIES * point.bytes_of_all_logits
    if point.layout == "naive" and point.device == "cpu" and needed > free_memory():
        return f"not run: about {needed / 2**30:,.0f} GiB", ""
    return _cost(measure_apart(point))


def free_memory() -> float:
    """Bytes of main memory that are free, or infinity where the system does not say."""
    names = ("SC_AVPHYS_PAGES", "SC_PAGE_SIZE")
    return math.prod(os.sysconf(name) for name in names) if set(names) <= set(os.sysconf_names) else math.inf


def _cost(figures: dict[str, float]) -> tuple[str, str]:
    return f"{figures['bytes'] / 2**20:,.0f} MiB", f"{figures['seconds']:.3f}"


if __name__ == "__main__":
    CLI(memory, as_positional=False)
