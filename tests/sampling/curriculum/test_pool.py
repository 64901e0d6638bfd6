"""The prompt pool against what Algorithm 1 promises, under random histories."""

import io
import random
from collections import Counter

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from rence_lightning.sampling import PromptPool


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


def test_the_order_is_a_function_of_the_seed() -> None:
    one, same, other = (PromptPool(range(50), seed).draw(50) for seed in (0, 0, 1))
    assert one == same != other
