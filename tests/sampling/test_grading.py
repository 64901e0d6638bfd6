"""Rewards that wait: the batch is that of a fast reward, whichever group is graded first, and no call is left open."""

import asyncio
import gc
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from fake_sampling import (
    SAMPLING,
    FakeEngine,
    K,
    LastToken,
    brute_force,
    figures,
    iterations,
    make_data,
    names,
    unrelated,
)

from rence_lightning.errors import PartError
from rence_lightning.rewards import FunctionReward, Response, Reward, Score

SECONDS = 20.0


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + SECONDS
    while not (held := condition()) and time.monotonic() < deadline:
        time.sleep(0.005)
    return held


def verdict(response: Response) -> Score:
    return Score(float(response.text == "1"), response.text == "1", response.text)


def asynchronous(seed: int, longest: float) -> Reward:
    chance = random.Random(seed)

    async def judge(response: Response) -> Score:
        await asyncio.sleep(chance.random() * longest)
        return verdict(response)

    return FunctionReward(judge)


def threaded(seed: int, longest: float) -> Reward:
    chance = random.Random(seed)

    def judge(response: Response) -> Score:
        time.sleep(chance.random() * longest)
        return verdict(response)

    return FunctionReward(judge, concurrency=16)


def whole_groups(seed: int, longest: float) -> Reward:
    chance = random.Random(seed)

    class Waits(Reward):
        async def score(self, responses: Any) -> list[Score]:  # type: ignore[override]
            await asyncio.sleep(chance.random() * longest)
            return [verdict(response) for response in responses]

    return Waits()


@pytest.mark.parametrize("pause", [0.0, 0.002])
@pytest.mark.parametrize("make", [asynchronous, threaded, whole_groups])
def test_batches_are_those_of_a_fast_reward(make: Callable[[int, float], Reward], pause: float) -> None:
    """Grading in any order, late and while the engine samples; a run that is restored in between goes on like it."""
    fast = make_data(FakeEngine(), prompts=40, reward=LastToken())
    slow, restored = (make_data(FakeEngine(pause=pause), prompts=40, reward=make(seed, 0.01)) for seed in (1, 2))
    expected, found = iterations(fast, 5), iterations(slow, 2)
    restored.load_state_dict(slow.state_dict())
    found += iterations(restored, 3)
    for right, batch in zip(expected, found, strict=True):
        assert names(batch.sampled) == names(right.sampled) and names(batch.groups) == names(right.groups)
        assert [group.scores for group in batch.groups] == [group.scores for group in right.groups]
        assert figures(batch) == figures(right)
    assert restored.state_dict() == fast.state_dict()


class Endless:
    """A reward that is right for some problems, and never ends for the others."""

    def __init__(self, ends: Callable[[Response], bool]) -> None:
        self.ends, self.begun, self.ended, self.released = ends, 0, 0, threading.Event()
        self.counting = threading.Lock()

    async def wait(self, response: Response) -> Score:
        if not self.ends(response):
            self.begun += 1
            try:
                await asyncio.sleep(60)
            finally:
                self.ended += 1
        return verdict(response)

    def block(self, response: Response) -> Score:
        if not self.ends(response):
            with self.counting:
                self.begun += 1
            self.released.wait(60)
            with self.counting:
                self.ended += 1
        return verdict(response)


def test_groups_that_cannot_count_are_not_waited_for() -> None:
    (expected,) = brute_force(unrelated, 5, 1, 60)
    endless, needless = (
        Endless(lambda response: response.problem.id in expected.counted),
        K * (60 - len(expected.counted)),
    )

    async def judge(response: Response) -> Score:
        while endless.ends(response) and endless.begun < needless:
            await asyncio.sleep(0.001)
        return await endless.wait(response)

    data = make_data(FakeEngine(room=60), prompts_per_draw=60, reward=FunctionReward(judge, concurrency=256))
    (batch,) = iterations(data, 1)
    assert names(batch.groups) == expected.kept
    assert endless.begun == needless and eventually(lambda: endless.ended == needless)


class Interrupted(Exception):
    """What a listener raises to stop sampling."""


def interrupted_draw(data: Any, condition: Callable[[], bool] = lambda: True) -> None:
    """A draw that is interrupted as soon as the engine is done and the condition holds."""

    def interrupt(responses: int, tokens: int) -> None:
        if (responses, tokens) == (0, 0) and condition():
            raise Interrupted

    begun = time.monotonic()
    with pytest.raises(Interrupted):
        data.sampler.sample(list(data.prompts.values()), K, SAMPLING, lambda prompt: "stream", interrupt)
    assert time.monotonic() - begun < SECONDS


def test_an_interrupt_ends_calls_that_wait_and_does_not_wait_for_those_that_block() -> None:
    waits, blocks = Endless(lambda _: False), Endless(lambda _: False)
    data = make_data(FakeEngine(room=60), reward=FunctionReward(waits.wait))
    interrupted_draw(data, lambda: waits.begun == 64)
    assert eventually(lambda: waits.ended == 64) and waits.begun == 64
    for concurrency in (1, 16):
        blocks.begun = blocks.ended = 0
        data = make_data(FakeEngine(room=60), reward=FunctionReward(blocks.block, concurrency=concurrency))
        interrupted_draw(data, lambda concurrency=concurrency: blocks.begun == concurrency)
        blocks.ends = lambda _: True
        blocks.released.set()
        assert eventually(lambda concurrency=concurrency: blocks.ended == concurrency)
        assert len(iterations(data, 1)[0].groups) == 5, "the next draw does not find the places free"
        blocks.released.clear()
        blocks.ends = lambda _: False


def test_an_error_ends_the_draw_and_the_calls_of_all_groups() -> None:
    endless = Endless(lambda response: response.problem.id == "p7")

    async def judge(response: Response) -> Score:
        while response.problem.id == "p7" and endless.begun < 100:
            await asyncio.sleep(0.001)
        if response.problem.id == "p7":
            raise ConnectionError("refused")
        return await endless.wait(response)

    data = make_data(FakeEngine(room=60), reward=FunctionReward(judge, concurrency=240))
    with pytest.raises(PartError, match=r"judge, problem p7: raised ConnectionError: refused"):
        data.sampler.sample(list(data.prompts.values()), K, SAMPLING, lambda prompt: "stream")
    assert endless.begun >= 100 and eventually(lambda: endless.ended == endless.begun)


def test_a_run_has_one_loop_which_ends_with_it() -> None:
    """A client of a server keeps its connections from draw to draw."""
    loops: set[Any] = set()

    async def judge(response: Response) -> Score:
        loops.add(asyncio.get_running_loop())
        return verdict(response)

    def threads() -> int:
        return sum(thread.name == "grading" for thread in threading.enumerate())

    gc.collect()
    assert eventually(lambda: threads() == 0)
    data = make_data(FakeEngine(), reward=FunctionReward(judge))
    assert len(iterations(data, 3)) == 3 and len(loops) == 1 and threads() == 1
    first = loops.pop()
    data.sampler.close()
    assert eventually(lambda: first.is_closed() and threads() == 0)
    iterations(data, 1)
    second = loops.pop()
    assert threads() == 1 and not second.is_closed()
    del data
    gc.collect()
    assert eventually(lambda: second.is_closed() and threads() == 0)


def test_a_reward_that_does_not_wait_grades_one_group_at_a_time_and_may_have_a_loop_of_its_own() -> None:
    calls: list[list[str]] = []
    busy = threading.Lock()

    class Own(LastToken):
        def score(self, responses: Any) -> list[Score]:
            assert busy.acquire(blocking=False), "two groups are graded at a time"
            calls.append([response.problem.id for response in responses])
            asyncio.run(asyncio.sleep(0.001))
            busy.release()
            return super().score(responses)

    def judge(response: Response) -> Score:
        assert busy.acquire(blocking=False), "two responses are graded at a time"
        calls[-1].append(response.problem.id) if calls and len(calls[-1]) < K else calls.append([response.problem.id])
        busy.release()
        return verdict(response)

    for reward in (Own(), FunctionReward(judge)):
        calls.clear()
        (batch,) = iterations(make_data(FakeEngine(), reward=reward), 1)
        assert names(batch.groups) == brute_force(unrelated, 5, 1, 60)[0].kept
        assert all(len(set(call)) == 1 and len(call) == K for call in calls), "two groups are mixed"
