"""The table of docs/scaling.md and docs/memory_table.md, recomputed."""

import re
from pathlib import Path

import pytest

from benchmarks.memory_table.__main__ import section
from benchmarks.memory_table.largest import LONGEST, MODES, STEP, peaks
from rence_lightning.planning import USABLE, training_memory

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGE = (DOCS / "memory_table.md").read_text(encoding="utf-8")
GPUS = (1, 2, 4, 8, 16, 32, 64)


def row(mode: int, size: str, memory: int) -> list[str]:
    """The cells of a row of the page, without its title."""
    text = PAGE.split(f"**{MODES[mode].name}**")[1]
    found = re.search(rf"^\| {re.escape(size)}, {memory} GB \| (.*) \|$", text, re.M)
    assert found is not None
    return found[1].split(" | ")


def test_the_table_for_full_training_is_in_the_page_on_scaling() -> None:
    table = PAGE.split("\n\n")[3]
    assert table.startswith("| policy, GPU |") and table in (DOCS / "scaling.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "size", "memory"), [(0, "4B", 80), (3, "14B", 40)])
def test_two_rows_are_what_the_tracker_gives(mode: int, size: str, memory: int) -> None:
    text = section(MODES[mode], (size,), GPUS, (memory,))
    assert text.splitlines()[-1] == f"| {size}, {memory} GB | {' | '.join(row(mode, size, memory))} |"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "size", "memory", "gpus"),
    [(0, "1.7B", 40, 1), (0, "14B", 40, 64), (2, "8B", 24, 2), (3, "8B", 24, 2)],
)
def test_cells_hold_on_their_own_number_of_gpus(mode: int, size: str, memory: int, gpus: int) -> None:
    tokens = int(row(mode, size, memory)[GPUS.index(gpus)].replace(",", ""))
    assert tokens < LONGEST
    limit = USABLE * memory * 1e9
    fits = training_memory(MODES[mode].setup(size, gpus, tokens)).peak
    assert fits <= limit
    if not MODES[mode].cpu_offload:  # whose cells are those of one GPU
        assert training_memory(MODES[mode].setup(size, gpus, tokens + 2 * STEP)).peak > limit


@pytest.mark.slow
def test_a_peak_between_tracked_lengths_is_not_underestimated() -> None:
    found, tokens = peaks(MODES[0], "0.6B"), 16384
    exact = training_memory(MODES[0].setup("0.6B", 8, tokens)).peak
    assert exact <= found.at(tokens, 8) <= 1.1 * exact
