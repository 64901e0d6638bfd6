"""GRESO's skipping, alone and in a pool, against the probabilities and the adaptation that its paper gives."""

import io
import math
import random
from itertools import groupby
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rence_lightning.errors import UserError
from rence_lightning.sampling import GRESOSkipping, PromptPool

EASY, HARD, MIXED = [True] * 4, [False] * 4, [True, False, True, False]


def greso(**parameters: float) -> GRESOSkipping:
    return GRESOSkipping(**{"min_keep": 0.0, **parameters})


def skip_probability(skipping: GRESOSkipping, index: int = 0) -> float:
    """The uniform number from which on a prompt is skipped, by bisection, from 1."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if skipping.skips(index, middle) else (middle, high)
    return 1 - high


@pytest.mark.parametrize(("group", "p"), [(EASY, 0.7), (HARD, 0.4)])
@pytest.mark.parametrize("streak", range(5))
def test_prompts_are_skipped_as_often_as_the_formula_says(group: list[bool], p: float, streak: int) -> None:
    skipping = greso(p_easy=0.7, p_hard=0.4)
    for _ in range(streak):
        skipping.record(5, group)
    chance, trials = random.Random(streak), 20_000
    share = sum(skipping.skips(5, chance.random()) for _ in range(trials)) / trials
    expected = 1 - p**streak
    assert abs(share - expected) <= 5 * math.sqrt(expected * (1 - expected) / trials)


@given(st.lists(st.sampled_from([EASY, HARD, MIXED]), max_size=8), st.integers(0, 3))
def test_only_the_last_uninformative_groups_count(history: list[list[bool]], others: int) -> None:
    skipping = greso(p_easy=0.7, p_hard=0.4)
    for group in history:
        skipping.record(0, group)
        for other in range(1, others + 1):
            skipping.record(other, HARD)  # what other prompts did must not matter
    runs = [(informative, list(run)) for informative, run in groupby(history, lambda group: group is MIXED)]
    if not runs or runs[-1][0]:
        assert not skipping.skips(0, math.nextafter(1.0, 0.0)), "a prompt with an informative last group is skipped"
        return
    run = runs[-1][1]
    p = 0.7 if run[-1] is EASY else 0.4
    assert skip_probability(skipping) == pytest.approx(1 - p ** len(run), abs=1e-12)


def test_a_single_right_or_wrong_response_makes_a_group_informative() -> None:
    for group in ([True] * 7 + [False], [False] * 7 + [True]):
        skipping = greso()
        skipping.record(0, HARD)
        skipping.record(0, group)
        assert not skipping.skips(0, 0.999999)


def test_nobody_is_skipped_for_ever() -> None:
    skipping = GRESOSkipping(p_hard=0.05)
    for _ in range(1000):
        skipping.record(0, HARD)
    assert skip_probability(skipping) == pytest.approx(0.99)


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20))
def test_p_moves_by_a_step_towards_its_target(easy: int, hard: int, mixed: int) -> None:
    skipping = GRESOSkipping()
    for group, count in ((EASY, easy), (HARD, hard), (MIXED, mixed)):
        for index in range(count):
            skipping.record(index, group)
    skipping.end_iteration(epoch=2)
    sampled = easy + hard + mixed
    moves = (0, 0) if not sampled else (-1 if 12 * easy >= sampled else 1, -1 if 6 * hard >= sampled else 1)  # integers
    assert (skipping.p_easy, skipping.p_hard) == pytest.approx(tuple(0.5 + 0.01 * move for move in moves))


def test_p_rests_in_the_first_epoch() -> None:
    skipping = GRESOSkipping()
    skipping.record(0, HARD)
    skipping.end_iteration(epoch=1)
    assert skipping.figures() == {"p_easy": 0.5, "p_hard": 0.5}
    skipping.end_iteration(epoch=2)
    assert skipping.figures() == {"p_easy": 0.5, "p_hard": 0.5}, "groups of a past iteration were counted"


@given(st.lists(st.sampled_from([EASY, HARD, MIXED]), min_size=1, max_size=200), st.floats(0.0, 1.0))
def test_p_stays_in_its_bounds(history: list[list[bool]], step: float) -> None:
    skipping = GRESOSkipping(step=step)
    for group in history:
        skipping.record(0, group)
        skipping.end_iteration(epoch=2)
        assert all(0.05 <= p <= 0.95 for p in skipping.figures().values())


@pytest.mark.parametrize(("group", "figures"), [(EASY, (0.05, 0.95)), (HARD, (0.95, 0.05)), (MIXED, (0.95, 0.95))])
def test_p_reaches_its_bounds(group: list[bool], figures: tuple[float, float]) -> None:
    skipping = GRESOSkipping()
    for _ in range(60):
        skipping.record(0, group)
        skipping.end_iteration(epoch=2)
    assert (skipping.p_easy, skipping.p_hard) == figures


@pytest.mark.parametrize(("rate_easy", "rate_hard"), [(0.15, 0.3), (0.25, 0.4)])
def test_the_sampled_shares_approach_their_targets(rate_easy: float, rate_hard: float) -> None:
    """A thousand prompts of fixed kinds, more of them easy or hard than is aimed at."""
    chance = random.Random(0)
    kinds = chance.choices([EASY, HARD, MIXED], [rate_easy, rate_hard, 1 - rate_easy - rate_hard], k=1000)
    skipping = GRESOSkipping(p_max=1.0)
    shares = []
    for epoch in range(1, 601):
        sampled = [i for i in chance.sample(range(1000), 200) if not skipping.skips(i, chance.random())]
        for index in sampled:
            # Now and then a group is informative, else no prompt of the kind would come round again.
            skipping.record(index, kinds[index] if chance.random() < 0.8 else MIXED)
        skipping.end_iteration(epoch)
        if epoch > 300:
            shares.append([sum(kinds[i] is kind for i in sampled) * 0.8 / len(sampled) for kind in (EASY, HARD)])
    easy, hard = (sum(column) / len(shares) for column in zip(*shares, strict=True))
    assert easy == pytest.approx(1 / 12, abs=0.02)
    assert hard == pytest.approx(1 / 6, abs=0.03)


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([EASY, HARD, MIXED])), max_size=40), st.integers(0, 99))
def test_a_restored_skipping_goes_on_like_the_first(history: list[tuple[int, list[bool]]], seed: int) -> None:
    first = GRESOSkipping()
    for number, (index, group) in enumerate(history):
        first.record(index, group)
        if number % 3 == 0:
            first.end_iteration(epoch=2)
    first.end_iteration(epoch=2)
    second = GRESOSkipping()
    second.load_state_dict(first.state_dict())
    chance = random.Random(seed)
    for _ in range(20):
        index, uniform = chance.randrange(6), chance.random()
        assert first.skips(index, uniform) == second.skips(index, uniform)
        group = chance.choice([EASY, HARD, MIXED])
        for skipping in (first, second):
            skipping.record(index, group)
            skipping.end_iteration(epoch=3)
        assert first.figures() == second.figures()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"p_easy": 1.0}, "p_easy is 1.0, it must be from p_min 0.05 to p_max 0.95"),
        ({"p_hard": 0.0}, "p_hard is 0.0"),
        ({"p_min": 0.0}, "need 0 < p_min <= p_max <= 1"),
        ({"p_max": 1.1}, "need 0 < p_min <= p_max <= 1"),
        ({"p_min": 0.6, "p_max": 0.5}, "need 0 < p_min <= p_max <= 1"),
        ({"target_easy": -0.1}, "target_easy is -0.1, it must be from 0 to 1"),
        ({"target_hard": 1.1}, "target_hard is 1.1"),
        ({"step": -0.01}, "step is -0.01"),
        ({"min_keep": float("nan")}, "min_keep is nan"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=f"^skipping: .*{message}") as error:
        GRESOSkipping(**settings)
    assert "\n" not in str(error.value)


def test_without_a_past_nothing_is_skipped() -> None:
    plain, pool = PromptPool(range(9), 1), PromptPool(range(9), 1, GRESOSkipping())
    for _ in range(20):
        for either in (plain, pool):
            either.start_iteration()
        drawn = pool.draw(4)
        assert drawn == plain.draw(4)
        for index in drawn:
            pool.record(index, [True, False])
        assert pool.end_iteration()["prompts_skipped"] == 0


def simulate(pool: PromptPool, first: int, last: int, size: int) -> list[tuple[Any, ...]]:
    """Iterations of draws and groups, each prompt with a rate of correct responses of its own, 0 and 1 among them."""
    history: list[tuple[Any, ...]] = []
    for iteration in range(first, last):
        pool.start_iteration()
        drawn = pool.draw(3) + pool.draw(2)
        needed = drawn[:4] if iteration % 3 == 0 else drawn
        for index in needed:
            rate = min(1.0, 1.2 * index / max(size - 1, 1))
            chance = random.Random(f"{iteration}/{index}")
            pool.record(index, [chance.random() < rate for _ in range(3)])
        skipped = pool.skipped
        pool.cache(drawn[len(needed) :])
        history.append((drawn, skipped, pool.end_iteration()))
    return history


@given(st.integers(6, 20), st.integers(0, 10_000), st.integers(1, 29))
@settings(max_examples=30, deadline=None)
def test_a_restored_pool_with_skipping_goes_on_like_the_first(size: int, seed: int, stop: int) -> None:
    whole = simulate(PromptPool(range(size), seed, GRESOSkipping(step=0.1)), 0, 30, size)
    first = PromptPool(range(size), seed, GRESOSkipping(step=0.1))
    parts = simulate(first, 0, stop, size)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = PromptPool(range(size), seed, GRESOSkipping(step=0.1))
    second.load_state_dict(torch.load(file, weights_only=True))
    assert parts + simulate(second, stop, 30, size) == whole


@given(st.integers(8, 20), st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_skipping_loses_no_prompt_for_ever(size: int, seed: int) -> None:
    # Each prompt has 200 chances of at least 5%: that it misses all of them has a probability of 0.00004.
    history = simulate(PromptPool(range(size), seed, GRESOSkipping(min_keep=0.05)), 0, 400, size)
    assert any(skipped for _, skipped, _ in history), "nothing was skipped: the test has lost its point"
    for late in (history[:200], history[200:]):
        assert {index for drawn, _, _ in late for index in drawn} == set(range(size))


def test_a_run_may_begin_to_skip_when_it_is_resumed() -> None:
    plain = PromptPool(range(8), 0)
    plain.start_iteration()
    plain.draw(5)
    pool = PromptPool(range(8), 0, GRESOSkipping())
    pool.load_state_dict(plain.state_dict())
    for either in (plain, pool):
        either.start_iteration()
    assert pool.draw(5) == plain.draw(5)
