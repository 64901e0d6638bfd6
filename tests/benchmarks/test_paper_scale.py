"""The replay of the paper's run: its scheduler and its planners on cases counted by hand."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.paper_scale.lengths import Sampled
from benchmarks.paper_scale.padded_planner import padded_passes
from benchmarks.paper_scale.rollouts import Engines, finish_times
from benchmarks.paper_scale.updates import Work, packed_update, padded_update

ROOT = Path(__file__).parents[2]


def test_slots_take_responses_in_the_order_of_the_draw() -> None:
    groups = [Sampled(1, (4, 2), True), Sampled(1, (1, 1), True), Sampled(1, (3, 3), True)]
    assert finish_times(groups, Engines(ranks=1, slots=2, rate=1.0)) == [4, 4, 7]
    assert finish_times(groups, Engines(ranks=2, slots=2, rate=0.5)) == [8, 2, 14]
    assert Engines(2, 2, 0.5).seconds(12) == 6


def test_padding_and_scoring_of_the_padded_planner() -> None:
    assert padded_passes([(2, [8, 3]), (1, [4, 4])], 100) == ([40], 0)
    assert padded_passes([(2, [8, 3])], 12) == ([10, 5], 15), "a group over the budget is cut, and scored first"


def test_what_an_update_computes() -> None:
    shapes = [(2, (8, 3)), (1, (4, 4))]
    packed, padded = Work(), Work()
    packed_update(packed, shapes, 100, ranks=1)
    padded_update(padded, shapes, 100, ranks=1)
    assert (packed.real, packed.computed, packed.scored, packed.passes) == (22, 22, 0, [1])
    assert (padded.real, padded.computed, padded.scored) == (22, 40, 0)
    assert packed.ideal == [pytest.approx(0.22)]
    cut = Work()
    packed_update(cut, shapes, 10, ranks=1)
    assert (cut.computed, cut.scored) == (22 + 2, 13 + 2), "only the group over the budget is scored"


@pytest.mark.slow
def test_the_command_prints_both_tables() -> None:
    command = [sys.executable, "-m", "benchmarks.paper_scale", "--iterations=1", "--slots=[64]"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert "| 57,344 | packed | 1.000 | 0.000 |" in done.stdout
    assert done.stdout.count("follow need") == 1
