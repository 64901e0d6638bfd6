"""The prompt pool against what Algorithm 1 promises, under random histories."""

import io
import random
from collections import Counter
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from rence_lightning.prompts import PromptPool


def play(pool: PromptPool, iterations: int, seed: int) -> list[list[list[int]]]:
    """Runs iterations of random draws, mastery and leftovers; returns what was drawn, and checks every promise."""
    chance = random.Random(seed)
    history = []
    for _ in range(iterations):
        pool.start_iteration()
        expected_cache = list(pool.cached)
        draws: list[list[int]] = []
        for _ in range(chance.randint(1, 4)):
            drawn = pool.draw(chance.randint(1, 5))
            if expected_cache and not draws:
                assert drawn == expected_cache, "the cache is drawn first, and whole"
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
