"""The replay of the paper's run: its scheduler and its planners on cases counted by hand."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.paper_scale.lengths import Sampled
from benchmarks.paper_scale.padded_planner import padded_passes
from benchmarks.paper_scale.rollouts import Engines, draws_on_need, finish_times, fixed_draws
from benchmarks.paper_scale.updates import Work, packed_update, padded_update
from rence_lightning.sampling.curriculum.draws import DrawSize

ROOT = Path(__file__).parents[2]


def test_slots_take_responses_in_the_order_of_the_draw() -> None:
    groups = [Sampled(1, (4, 2), True), Sampled(1, (1, 1), True), Sampled(1, (3, 3), True)]
    assert finish_times(groups, Engines(ranks=1, slots=2, rate=1.0)) == [4, 4, 7]
    assert finish_times(groups, Engines(ranks=2, slots=2, rate=0.5)) == [8, 2, 14]
    assert Engines(2, 2, 0.5).seconds(12) == 6


def groups_of(*kept: bool) -> Callable[[], Sampled]:
    """Groups with one response of 1, 2, 3, .. tokens, kept as given."""
    groups = iter([Sampled(1, (length,), each) for length, each in enumerate(kept, start=1)])
    return lambda: next(groups)


def test_draws_on_need_end_when_the_batch_is_known() -> None:
    engines = Engines(ranks=1, slots=2, rate=1.0)
    # The first draw gives one group after 1 + 3 s, the second another one after 5 s; its last group is cancelled.
    source = groups_of(False, False, True, False, True, False)
    measured = draws_on_need(source, engines, DrawSize(2, fixed=3), wanted=2)
    assert (measured.seconds, measured.draws) == (4 + 5, 2)
    assert measured.ideal == (1 + 2 + 3 + 4 + 5) / 2


def test_fixed_draws_wait_for_all_and_cache_what_is_left() -> None:
    engines = Engines(ranks=1, slots=2, rate=1.0)
    source = groups_of(True, False, False, True, True)
    # One cached prompt alone takes 1 s; then four groups of 2, 3, 4 and 5 tokens on two slots end after 3 + 5 s.
    measured, left_over = fixed_draws(source, engines, cached=1, draw=4, wanted=2)
    assert (measured.seconds, measured.draws, left_over) == (1 + 8, 2, 1)
    assert measured.ideal == (1 + 2 + 3 + 4) / 2


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
