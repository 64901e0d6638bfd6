"""Mixing data sets by weight: turns in proportion, each set in shuffled epochs, the same after a resume."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rence_lightning.errors import UserError
from rence_lightning.sampling import PromptPool

SETS = [list(range(100)), list(range(100, 130))]


def test_turns_are_in_proportion_at_every_moment() -> None:
    pool = PromptPool(SETS, seed=0, weights=[3, 1])
    drawn: list[int] = []
    for _ in range(12):
        pool.start_iteration()
        drawn += pool.draw(8)
        small = sum(index >= 100 for index in drawn)
        assert abs(small - len(drawn) / 4) <= 1


def test_each_set_keeps_to_its_own_epochs() -> None:
    pool = PromptPool(SETS, seed=0, weights=[1, 1])
    drawn: list[int] = []
    for _ in range(30):
        pool.start_iteration()
        drawn += pool.draw(10)
    large = [index for index in drawn if index < 100]
    small = [index for index in drawn if index >= 100]
    assert len(large) == len(small) == 150
    assert sorted(large[:100]) == SETS[0]
    assert all(sorted(small[start : start + 30]) == SETS[1] for start in range(0, 150, 30))
    assert small[:30] != small[30:60]


def test_where_one_set_is_drawn_out_the_others_go_on() -> None:
    pool = PromptPool([[1, 2], [3, 4, 5, 6, 7, 8]], seed=0, weights=[5, 1])
    pool.start_iteration()
    assert sorted(pool.draw(8)) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert pool.draw(1) == []


@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    weights=st.lists(st.floats(0.1, 10), min_size=4, max_size=4),
    draws=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    cut=st.integers(0, 11),
    seed=st.integers(0, 5),
)
def test_a_resumed_mixture_goes_on_as_if_nothing_had_happened(
    sizes: list[int], weights: list[float], draws: list[int], cut: int, seed: int
) -> None:
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    sets = [list(range(start, start + size)) for start, size in zip(starts, sizes, strict=True)]

    def make() -> PromptPool:
        return PromptPool(sets, seed, weights=weights[: len(sets)])

    def steps(pool: PromptPool, counts: list[int], chance: random.Random) -> list[list[int]]:
        out = []
        for count in counts:
            pool.start_iteration()
            drawn = pool.draw(count)
            assert len(set(drawn)) == len(drawn) == min(count, pool.left)
            assert not pool.mastered.intersection(drawn)
            for index in drawn:
                if chance.random() < 0.1:
                    pool.master(index)
            out.append(drawn)
        return out

    chance = random.Random(seed)
    whole = make()
    expected = steps(whole, draws[:cut], chance)
    state, dice = whole.state_dict(), chance.getstate()
    rest = steps(whole, draws[cut:], chance)
    resumed = make()
    resumed.load_state_dict(state)
    chance.setstate(dice)
    assert steps(resumed, draws[cut:], chance) == rest
    assert len(expected) + len(rest) == len(draws)


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, -2.0]])
def test_bad_weights_are_refused(weights: list[float]) -> None:
    with pytest.raises(UserError, match=r"data\.weights: .* give a weight > 0 for each of the 2 sources"):
        PromptPool(SETS, seed=0, weights=weights)
