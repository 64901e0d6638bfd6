"""The prompt pool against what Algorithm 1 promises, under random histories."""

import io
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from rence_lightning.sampling import PromptPool, PromptSkipping


def play(pool: PromptPool, iterations: int, seed: int) -> list[list[list[int]]]:
    """Runs iterations of random draws, mastery and leftovers; returns what was drawn, and checks every promise."""
    chance = random.Random(seed)
    history = []
    for _ in range(iterations):
        pool.start_iteration()
        cached = list(pool.cached)
        draws: list[list[int]] = []
        for _ in range(chance.randint(1, 4)):
            count = chance.randint(1, 5)
            drawn = pool.draw(count)
            assert drawn[: len(cached)] == cached[:count], "the cache is drawn first"
            cached = cached[count:]
            draws.append(drawn)
            assert not set(drawn) & pool.mastered, "a mastered prompt was drawn"
            for index in drawn:
                if chance.random() < 0.2:
                    pool.master(index)
        flat = [index for draw in draws for index in draw]
        assert len(flat) == len(set(flat)), "a prompt was drawn twice in an iteration"
        pool.cache([index for index in flat if index not in pool.mastered and chance.random() < 0.2])
        history.append(draws)
    return history


@given(st.integers(1, 12), st.integers(0, 10_000))
def test_promises_hold_in_any_history(size: int, seed: int) -> None:
    pool = PromptPool(range(100, 100 + size), seed)
    play(pool, 12, seed)
    assert pool.left == size - len(pool.mastered)


@given(st.integers(1, 12), st.integers(0, 10_000))
def test_a_restored_pool_goes_on_like_the_first(size: int, seed: int) -> None:
    pool = PromptPool(range(size), seed)
    play(pool, 5, seed)
    file = io.BytesIO()
    torch.save(pool.state_dict(), file)
    file.seek(0)
    state: dict[str, Any] = torch.load(file, weights_only=True)
    restored = PromptPool(range(size), seed=seed)
    restored.load_state_dict(state)
    assert play(restored, 5, seed + 1) == play(pool, 5, seed + 1)


class PoolMachine(RuleBasedStateMachine):
    """Any order of draws, mastery, leftovers, iterations and restarts, compared with a model that only counts."""

    @initialize(size=st.integers(1, 9), seed=st.integers(0, 99))
    def build(self, size: int, seed: int) -> None:
        self.size, self.seed = size, seed
        self.pool = PromptPool(range(size), seed)
        self.twin = PromptPool(range(size), seed)
        self.mastered: set[int] = set()
        self.drawn: list[int] = []
        self.cached: list[int] = []
        self.turns: Counter[int] = Counter()  # draws of each prompt, those from the cache included
        self.in_order: Counter[int] = Counter()  # those from the order alone

    @rule(count=st.integers(1, 12))
    def draw(self, count: int) -> None:
        drawn = self.pool.draw(count)
        assert drawn == self.twin.draw(count), "two pools of one seed and one history differ"
        assert not set(drawn) & self.mastered, "a mastered prompt was drawn"
        assert not set(drawn) & set(self.drawn), "a prompt was drawn twice in an iteration"
        assert len(set(drawn)) == len(drawn), "a prompt was drawn twice at once"
        drawable = set(range(self.size)) - self.mastered - set(self.drawn)
        assert len(drawn) == min(count, len(drawable)), "too few prompts although more are drawable"
        assert drawn[: len(self.cached)] == self.cached[:count], "the cache must be drawn first"
        self.in_order.update(drawn[len(self.cached) :])
        self.cached = self.cached[count:]
        self.drawn += drawn
        self.turns.update(drawn)

    @rule(chance=st.randoms(use_true_random=False))
    def master_some(self, chance: random.Random) -> None:
        for index in self.drawn:
            if chance.random() < 0.3:
                self.pool.master(index)
                self.twin.master(index)
                self.mastered.add(index)

    @rule(chance=st.randoms(use_true_random=False), restart=st.booleans())
    def end_iteration(self, chance: random.Random, restart: bool) -> None:
        unneeded = [index for index in self.drawn if index not in self.mastered and chance.random() < 0.3]
        self.cached = unneeded + self.cached
        for pool in (self.pool, self.twin):
            pool.cache(unneeded)
        if restart:
            file = io.BytesIO()
            torch.save(self.pool.state_dict(), file)
            file.seek(0)
            self.pool = PromptPool(range(self.size), self.seed)
            self.pool.load_state_dict(torch.load(file, weights_only=True))
        self.pool.start_iteration()
        self.twin.start_iteration()
        self.drawn = []

    @invariant()
    def books_agree(self) -> None:
        assert self.pool.mastered == self.mastered
        assert self.pool.left == self.size - len(self.mastered)
        assert list(self.pool.cached) == self.cached

    @invariant()
    def every_epoch_covers_every_unmastered_prompt(self) -> None:
        unmastered = set(range(self.size)) - self.mastered
        behind = min((self.turns[index] for index in unmastered), default=0)
        assert max(self.in_order.values(), default=0) <= behind + 2 or not unmastered, "a prompt was passed over"


PoolMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestPoolMachine = PoolMachine.TestCase


def test_every_epoch_covers_what_is_not_mastered_by_then() -> None:
    pool, left = PromptPool(range(12), seed=3), set(range(12))
    while left:
        epoch: list[int] = []
        for _ in range(len(left)):
            pool.start_iteration()
            epoch += pool.draw(1)
        assert sorted(epoch) == sorted(left), "an epoch must hold each prompt that is not mastered, once"
        pool.master(epoch[0])
        left.remove(epoch[0])


def test_each_epoch_covers_every_prompt_once_in_a_new_order() -> None:
    pool = PromptPool(range(12), seed=0)
    epochs = []
    for _ in range(3):
        epoch = []
        for _ in range(4):
            pool.start_iteration()
            epoch += pool.draw(3)
        epochs.append(epoch)
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs[0] != sorted(epochs[0])


def test_no_prompt_is_lost_or_favoured_where_draws_straddle_epochs() -> None:
    pool = PromptPool(range(10), seed=1)
    count: Counter[int] = Counter()
    for _ in range(100):
        pool.start_iteration()
        count.update(pool.draw(7))
    assert set(count) == set(range(10))
    assert max(count.values()) - min(count.values()) <= 2, count


def test_an_iteration_that_has_drawn_everything_draws_nothing_more() -> None:
    pool = PromptPool(range(5), seed=0)
    pool.start_iteration()
    assert sorted(pool.draw(3) + pool.draw(3)) == list(range(5))
    assert pool.draw(3) == []
    pool.start_iteration()
    assert len(pool.draw(3)) == 3


def test_a_mastered_pool_draws_nothing() -> None:
    pool = PromptPool(range(3), seed=0)
    for index in range(3):
        pool.master(index)
    pool.start_iteration()
    assert pool.draw(3) == []
    assert pool.left == 0


def test_the_order_is_a_function_of_the_seed() -> None:
    one, same, other = (PromptPool(range(50), seed).draw(50) for seed in (0, 0, 1))
    assert one == same != other


class Fixed(PromptSkipping):
    """Skips the same prompts always, and keeps books."""

    def __init__(self, hopeless: set[int]) -> None:
        self.hopeless = hopeless
        self.asked: list[tuple[int, float]] = []
        self.recorded: list[tuple[int, list[bool]]] = []
        self.epochs: list[int] = []

    def skips(self, index: int, uniform: float) -> bool:
        self.asked.append((index, uniform))
        return index in self.hopeless

    def record(self, index: int, correct: Sequence[bool]) -> None:
        self.recorded.append((index, list(correct)))

    def end_iteration(self, epoch: int) -> None:
        self.epochs.append(epoch)

    def figures(self) -> dict[str, float]:
        return {"books": 1.0}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class CoinSkipping(Fixed):
    """Skips two of three."""

    def skips(self, index: int, uniform: float) -> bool:
        super().skips(index, uniform)
        return uniform < 2 / 3


@given(st.integers(1, 12), st.integers(0, 10_000))
def test_promises_hold_in_any_history_with_skipping(size: int, seed: int) -> None:
    play(PromptPool(range(100, 100 + size), seed, CoinSkipping(set())), 12, seed)


@given(st.integers(1, 15), st.integers(0, 10_000), st.lists(st.integers(1, 6), min_size=1, max_size=8))
def test_a_draw_is_short_only_when_nothing_is_left(size: int, seed: int, counts: list[int]) -> None:
    pool = PromptPool(range(size), seed, CoinSkipping(set()))
    for _ in range(4):
        pool.start_iteration()
        drawn: list[int] = []
        for count in counts:
            new = pool.draw(count)
            assert len(new) == min(count, size - len(drawn)), "a draw came up short although prompts were skipped"
            drawn += new
            assert len(drawn) == len(set(drawn)), "a prompt was drawn twice in an iteration"
            assert not set(pool.skipped) & set(drawn)


def test_skipped_prompts_lose_their_turn_of_the_epoch() -> None:
    """Against the order of a pool of the same seed that skips nothing: what is skipped is struck out of it."""
    hopeless = {1, 4, 7}
    plain, pool = PromptPool(range(12), 3), PromptPool(range(12), 3, Fixed(hopeless))
    for _ in range(3):
        order = []
        for _ in range(4):
            plain.start_iteration()
            order += plain.draw(3)
        drawn = []
        for _ in range(3):
            pool.start_iteration()
            drawn += pool.draw(3)
        rest = [index for index in order if index not in hopeless]
        assert drawn == rest
        # An epoch that ends in skipped prompts leaves them to the next draw.


def test_a_prompt_is_decided_on_once_an_iteration_however_often_it_comes_up() -> None:
    skipping = Fixed({0, 1, 2})
    pool = PromptPool(range(6), 0, skipping)
    for _ in range(5):
        skipping.asked.clear()
        pool.start_iteration()
        drawn = [index for _ in range(3) for index in pool.draw(1)]
        assert sorted(drawn) == [3, 4, 5]
        asked = [index for index, _ in skipping.asked]
        assert len(asked) == len(set(asked)), "a prompt got two chances in an iteration"


def test_a_draw_that_would_come_up_short_takes_the_skipped_in_their_order() -> None:
    order = PromptPool(range(6), 0).draw(6)
    hopeless = {order[0], order[2], order[3]}
    pool = PromptPool(range(6), 0, Fixed(hopeless))
    pool.start_iteration()
    assert pool.draw(2) == [order[1], order[4]]
    assert pool.skipped == (order[0], order[2], order[3])
    assert pool.draw(3) == [order[5], order[0], order[2]]
    assert pool.skipped == (order[3],)
    assert pool.draw(3) == [order[3]]
    assert pool.skipped == ()
    assert pool.draw(3) == []


def test_the_cache_is_never_skipped() -> None:
    pool = PromptPool(range(6), 0, Fixed({2, 5}))
    pool.cache([5, 2])
    pool.start_iteration()
    assert pool.draw(1) == [5]
    drawn = pool.draw(4)
    assert drawn[0] == 2 and set(drawn[1:]) < {0, 1, 3, 4}, "the cached prompts join the next draws"
    assert sorted([*drawn[1:], *pool.draw(1)]) == [0, 1, 3, 4]
    assert pool.skipped == ()


def test_mastered_prompts_are_neither_skipped_nor_taken_after_all() -> None:
    pool = PromptPool(range(4), 0, Fixed({0, 1}))
    pool.start_iteration()
    assert sorted(pool.draw(2)) == [2, 3]
    pool.master(0)
    assert pool.draw(4) == [1]


def test_chance_is_uniform_new_each_iteration_and_alike_for_one_seed() -> None:
    def chances(seed: int, iterations: int) -> list[tuple[int, float]]:
        skipping = Fixed(set())
        pool = PromptPool(range(50), seed, skipping)
        for _ in range(iterations):
            pool.start_iteration()
            pool.draw(50)
        return sorted(skipping.asked)

    one = chances(0, 40)
    assert one == chances(0, 40) != chances(1, 40)
    numbers = [number for _, number in one]
    assert len(set(numbers)) == len(numbers) == 2000
    assert min(numbers) >= 0 and max(numbers) < 1
    for tenth in range(10):
        assert sum(tenth / 10 <= number < (tenth + 1) / 10 for number in numbers) == pytest.approx(200, abs=70)


def test_records_and_epochs_reach_the_skipping() -> None:
    skipping = Fixed(set())
    pool = PromptPool(range(4), 0, skipping)
    for _ in range(3):
        pool.start_iteration()
        for index in pool.draw(3):
            pool.record(index, [True, False])
        assert pool.end_iteration() == {"prompts_skipped": 0.0, "books": 1.0}
    assert len(skipping.recorded) == 9
    assert skipping.epochs == [1, 2, 3], "3 of 4, then 6, then 9 prompts drawn"
    plain = PromptPool(range(4), 0)
    plain.record(0, [True])
    assert plain.end_iteration() == {}
    assert "skipping" not in plain.state_dict()
