"""The batch is the first B kept groups in the order of the draw, whatever finishes first and whatever is cancelled."""

import time
from array import array
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from fake_sampling import (
    SAMPLING,
    FakeEngine,
    K,
    LastToken,
    Ranks,
    brute_force,
    figures,
    iterations,
    make_data,
    names,
    unrelated,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed import HashStore

from rence_lightning.distributed import Board
from rence_lightning.errors import PartError
from rence_lightning.prompts import Prompt
from rence_lightning.rewards import Response, Score
from rence_lightning.rollouts import Rollout
from rence_lightning.sampling import IterationBatch, Outcome, cutoff, local_draw
from rence_lightning.sampling.datamodule import RolloutDataModule

ENGINES = st.builds(
    FakeEngine,
    room=st.integers(1, 12),
    honours=st.booleans(),
    order=st.none() | st.integers(0, 1000),
)
SIZES = st.none() | st.integers(1, 25)


def assert_expected(data: RolloutDataModule, batches: list[IterationBatch], prompts: int) -> None:
    """Against `brute_force`, which knows no draws."""
    expected = brute_force(unrelated, data.prompts_per_iteration, len(batches), prompts)
    for batch, right in zip(batches, expected, strict=True):
        assert names(batch.groups) == right.kept
        assert names(batch.sampled) == right.counted
        assert batch.outcomes[Outcome.MASTERED] == len(right.mastered)
        assert batch.metrics()["groups_sampled"] == len(right.counted)
    assert {f"p{index}" for index in data.pool.mastered} == set().union(*(right.mastered for right in expected))
    assert data.responses_total == K * sum(len(right.counted) for right in expected)


@settings(max_examples=60, deadline=None)
@given(ENGINES, SIZES)
def test_a_batch_equals_brute_force(engine: FakeEngine, size: int | None) -> None:
    data = make_data(engine, prompts=100, prompts_per_draw=size)
    assert_expected(data, iterations(data, 4), 100)


@settings(max_examples=25, deadline=None)
@given(st.lists(ENGINES, min_size=2, max_size=3), SIZES, st.booleans())
def test_a_batch_is_the_same_on_several_ranks(engines: list[FakeEngine], size: int | None, shared: bool) -> None:
    """With a board of the ranks and without one."""
    ranks, store = Ranks(len(engines)), HashStore()
    board = Board(store) if shared else None
    data = [make_data(engine, prompts=100, prompts_per_draw=size) for engine in engines]
    with pytest.MonkeyPatch.context() as patch, ranks.connected(board):
        patch.setattr(cutoff, "POLL_SECONDS", 0.0)
        results = ranks.run(lambda rank: iterations(data[rank], 4))
    for one, batches in zip(data, results, strict=True):
        assert_expected(one, batches, 100)
        assert one.state_dict() == data[0].state_dict()
        assert [batch.metrics() for batch in batches] == [batch.metrics() for batch in results[0]]
    assert store.num_keys() == 0, "topics of past draws are left on the board"


@settings(max_examples=40, deadline=None)
@given(ENGINES, SIZES)
def test_cancelling_changes_nothing_that_lasts(engine: FakeEngine, size: int | None) -> None:
    """Over several epochs of a small pool: the state and all counted figures are those of a run in which nothing is
    cancelled and groups finish in the order of the draw."""
    plain = make_data(FakeEngine(room=1, honours=False), prompts=40, prompts_per_draw=size)
    other = make_data(engine, prompts=40, prompts_per_draw=size)
    for right, batch in zip(iterations(plain, 8), iterations(other, 8), strict=True):
        assert names(batch.sampled) == names(right.sampled)
        assert [group.rewards for group in batch.groups] == [group.rewards for group in right.groups]
        assert figures(batch) == figures(right)
    assert other.state_dict() == plain.state_dict()


@settings(max_examples=15, deadline=None)
@given(ENGINES, st.integers(1, 5), SIZES)
def test_a_restored_run_goes_on_like_the_first(engine: FakeEngine, stop: int, size: int | None) -> None:
    whole = make_data(engine, prompts=40, prompts_per_draw=size)
    expected = [figures(batch) for batch in iterations(whole, 6)]
    first, second = (make_data(engine, prompts=40, prompts_per_draw=size) for _ in range(2))
    assert [figures(batch) for batch in iterations(first, stop)] == expected[:stop]
    second.load_state_dict(first.state_dict())
    assert [figures(batch) for batch in iterations(second, 6 - stop)] == expected[stop:]
    assert second.state_dict() == whole.state_dict()


def test_an_engine_is_not_asked_for_what_is_not_needed() -> None:
    """With room for four groups, three are begun beyond the last that counts, and one more while that is graded."""
    engine = FakeEngine(room=4, pause=0.03)
    data = make_data(engine, prompts=100, prompts_per_draw=60)
    (batch,) = iterations(data, 1)
    begun = len(engine.seen)
    assert len(batch.sampled) <= begun <= len(batch.sampled) + 4
    assert batch.figures["responses_discarded"] == K * (begun - len(batch.sampled))
    assert batch.figures["prompts_cached"] == len(data.pool.cached) == 60 - len(batch.sampled)


def test_what_another_rank_has_kept_is_seen() -> None:
    """Rank 1 keeps five groups at once; rank 0, which samples slowly, begins nothing after them."""

    def kept(seed: int) -> tuple[int, list[bool]]:
        return 5, [True, False, False, False]

    engines = [FakeEngine(kept, room=1, pause=0.03), FakeEngine(kept, room=30, pause=0.003)]
    ranks, store = Ranks(2), HashStore()
    data = [make_data(engine, prompts=100, prompts_per_draw=60) for engine in engines]
    with pytest.MonkeyPatch.context() as patch, ranks.connected(Board(store)):
        patch.setattr(cutoff, "POLL_SECONDS", 0.0)
        ranks.run(lambda rank: iterations(data[rank], 1))
    assert len(engines[0].seen) == 3, "positions 0, 2 and 4 of a batch that ends at 4"


class Interrupted(Exception):
    """What a listener raises to stop sampling."""


@pytest.mark.parametrize("honours", [True, False])
def test_a_consumer_that_is_interrupted_ends_the_engine(honours: bool) -> None:
    engine = FakeEngine(honours=honours)
    data = make_data(engine)
    calls = []

    def interrupt(responses: int, tokens: int) -> None:
        calls.append((responses, tokens))
        if len(calls) == 3:
            raise Interrupted

    prompts = list(data.prompts.values())
    with pytest.raises(Interrupted):
        data.sampler.sample(prompts, K, SAMPLING, lambda prompt: "stream", interrupt)
    assert engine.closed == 1, "the engine goes on sampling"
    whole = data.sampler.sample(prompts, K, SAMPLING, lambda prompt: "stream").groups
    assert names(whole) == names_of(prompts), "without a number of groups, all prompts are sampled"


def names_of(prompts: list[Prompt]) -> list[str]:
    return [prompt.problem.id for prompt in prompts]


def test_a_slow_grading_can_be_interrupted() -> None:
    """The engine is done, and the rank waits for the reward."""

    class Slow(LastToken):
        def score(self, responses: Sequence[Response]) -> list[Score]:
            time.sleep(0.5)
            return super().score(responses)

    data = make_data(FakeEngine(room=60), reward=Slow())
    begun = time.monotonic()

    def interrupt(responses: int, tokens: int) -> None:
        if (responses, tokens) == (0, 0):
            raise Interrupted

    with pytest.raises(Interrupted):
        data.sampler.sample(list(data.prompts.values()), K, SAMPLING, lambda prompt: "stream", interrupt)
    assert time.monotonic() - begun < 5, "sixty groups take thirty seconds"


@pytest.mark.parametrize(
    ("token_ids", "log_probs", "words"),
    [
        ([7, -1], [-1.0, -1.0], "returned -1; expected token ids from 0 to 99"),
        ([100, 7], [-1.0, -1.0], "returned 100; expected token ids from 0 to 99"),
        ([7, 1], [-1.0, float("nan")], r"returned nan; expected log-probabilities, finite \(float16 may overflow"),
        ([7, 1], [-float("inf"), -1.0], "returned -inf; expected log-probabilities"),
        ([7, 1], [0.5, -1.0], r"returned 0\.5; expected log-probabilities"),
        ([7, 1], [-1.0], "expected a Rollout with at least one token and a log-probability for each"),
        ([], [], "expected a Rollout with at least one token"),
        (None, None, "expected a list of 4 rollouts"),
    ],
)
def test_an_engine_that_returns_bad_values_is_named(
    token_ids: list[int] | None, log_probs: list[float] | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = Rollout(array("i", [7, 1]), array("f", [1e-7, -30.0]), "stop")
    bad = [] if token_ids is None else [Rollout(array("i", token_ids), array("f", log_probs or []), "stop")]
    monkeypatch.setattr(FakeEngine, "_rollouts", lambda *_: [good] * (K - 1) + bad)
    data = make_data(FakeEngine())
    with pytest.raises(PartError, match=rf"FakeEngine, generate\(\), problem p\d+: .*{words}") as caught:
        data.sampler.sample(list(data.prompts.values()), K, SAMPLING, lambda prompt: "stream")
    assert "\n" not in str(caught.value)


def test_the_cost_of_the_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peak 8: half of them run for 2 s after the last request, one for 3 s more, and grading takes 1 s."""
    now = [10.0]
    monkeypatch.setattr(local_draw, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    nothing: Any = None
    draw = local_draw.LocalDraw(nothing, {}, [], nothing, nothing, nothing, nothing, 100)
    draw._measure_tail(8)
    now[0] += 5
    assert list(draw._stream()) == []
    for seconds, running in ((0, 4), (2, 1), (3, 0), (1, 0)):
        now[0] += seconds
        draw._measure_tail(running)
    assert draw.tail_seconds == pytest.approx(2 * 4 / 8 + 3 * 7 / 8 + 1)
