"""The size of a draw follows what is missing and the share that was kept so far."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rence_lightning.sampling.curriculum.draws import DrawSize


def after(size: DrawSize, kept: int, rejected: int) -> DrawSize:
    for number in range(kept + rejected):
        size.record(number < kept)
    return size


def test_a_run_starts_with_half_kept() -> None:
    """100 wanted at a share of 1/2: 200 on average, with a spare of 2 sqrt(100 / 2) / (1 / 2)."""
    assert DrawSize(100).next() == math.ceil(200 + 4 * math.sqrt(50)) == 229


def test_where_all_is_kept_a_draw_is_what_is_wanted() -> None:
    size = after(DrawSize(100), 100, 0)
    size.end_iteration()
    assert size.next() == 100
    assert after(size, 60, 0).next() == 40


def test_a_draw_follows_the_share_of_the_iteration_before() -> None:
    size = after(DrawSize(100), 100, 300)
    size.end_iteration()
    assert size.next() == math.ceil((100 + 2 * math.sqrt(75)) * 4)


def test_a_draw_is_at_most_eight_batches() -> None:
    size = after(DrawSize(100), 0, 400)
    assert size.next() == 800
    size.end_iteration()
    assert size.next() == 800, "nothing was kept at all"
    assert after(size, 0, 50).next() == 800


def test_a_fixed_size_stays() -> None:
    size = DrawSize(100, 7)
    assert size.next() == after(size, 90, 10).next() == 7


@given(st.integers(1, 600), st.integers(0, 600), st.integers(0, 600))
def test_a_restored_size_goes_on_like_the_first(wanted: int, kept: int, rejected: int) -> None:
    first, second = after(DrawSize(wanted), min(kept, wanted), rejected), after(DrawSize(wanted), 0, 3)
    first.end_iteration()
    second.load_state_dict(first.state_dict())
    assert 1 <= second.next() == first.next() <= 8 * wanted


@pytest.mark.parametrize("share", [0.2, 0.3, 0.6, 0.95])
def test_one_draw_is_enough_nearly_always(share: float) -> None:
    """In a run of steady share, against coin tosses: few iterations need a second draw, and few prompts are cached."""
    chance, size, draws, sizes, counted = random.Random(0), DrawSize(64), 0, 0, 0
    for _ in range(300):
        kept = 0
        while kept < 64:
            drawn = size.next()
            draws, sizes = draws + 1, sizes + drawn
            for _ in range(drawn):
                if kept < 64:
                    hit = chance.random() < share
                    size.record(hit)
                    kept, counted = kept + hit, counted + 1
        size.end_iteration()
    assert draws < 300 * 1.15
    assert sizes < counted * 1.5
