"""`python -m benchmarks.memory_table`: the largest `micro_batch_tokens` that fits, by policy, GPUs and memory."""

from pathlib import Path

from jsonargparse import CLI

from benchmarks.machine import describe
from benchmarks.markdown import save, table
from benchmarks.memory_table.largest import LONGEST, MODES, SHORTEST, Mode, peaks
from benchmarks.qwen3 import SIZES
from rence_lightning.planning import USABLE


def memory_table(
    sizes: tuple[str, ...] = tuple(SIZES),
    gpus: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64),
    memories: tuple[float, ...] = (24, 40, 80, 141),
    modes: tuple[int, ...] = tuple(range(len(MODES))),
    output: Path | None = None,
) -> None:
    """Tracks updates on fake devices, ten minutes for all of them on a core; needs no GPU.

    Args:
        sizes: Sizes of Qwen3.
        gpus: Numbers of GPUs, all of which share one copy of the policy (`FullyShardStrategy`).
        memories: Memory of a GPU in GB.
        modes: Numbers of the ways to train, from 0.
        output: Path of a Markdown file to write as well.
    """
    sections = ["# The largest pass that fits, by `python -m benchmarks.memory_table`", f"Machine: {describe()}"]
    print("\n\n".join(sections), flush=True)
    for mode in (MODES[number] for number in modes):
        sections.append(section(mode, sizes, gpus, memories))
        print(f"\n{sections[-1]}", flush=True)
        save("\n\n".join(sections), output)


def section(mode: Mode, sizes: tuple[str, ...], gpus: tuple[int, ...], memories: tuple[float, ...]) -> str:
    """The table of one way to train."""
    rows = []
    for size in sizes:
        found = peaks(mode, size)
        for memory in memories:
            rows.append([f"{size}, {memory:g} GB", *(_cell(found.largest(number, memory)) for number in gpus)])
        print(
            f"{mode.name}, {size}: {found.at(SHORTEST, 8) / 1e9:.2f} to {found.at(LONGEST, 8) / 1e9:.2f} GB on 8 GPUs",
            flush=True,
        )
    titles = ["policy, GPU", *(f"{number} GPU{'s' if number > 1 else ''}" for number in gpus)]
    text = (
        f"**{mode.name}**: largest `micro_batch_tokens` with a peak of at most {USABLE:.0%} of the memory; -: not even "
        f"one sequence of {SHORTEST:,} tokens fits; {LONGEST:,}: the longest group fits."
    )
    return f"{text}\n\n{table(titles, rows)}"


def _cell(tokens: int | None) -> str:
    return "-" if tokens is None else f"{tokens:,}"


if __name__ == "__main__":
    CLI(memory_table, as_positional=False)
