"""A function that waits: how many calls are open at a time, and what becomes of those that fail."""

import asyncio
import functools
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from command_line import config_of
from graded_groups import responses_to

from rence_lightning.errors import PartError, UserError
from rence_lightning.rewards import CombinedReward, FunctionReward, Response, Reward, Score

TEXTS = [str(number) for number in range(40)]


class Meeting:
    """A reward that returns once as many calls have been open at a time as are expected, and counts open calls."""

    def __init__(self, expected: int) -> None:
        self.open = self.most = 0
        self._expected, self._lock, self._met = expected, threading.Lock(), threading.Event()

    def _enter(self) -> None:
        with self._lock:
            self.open += 1
            self.most = max(self.most, self.open)
            if self.open == self._expected:
                self._met.set()

    def _leave(self) -> float:
        with self._lock:
            self.open -= 1
        return 1.0

    def block(self, _: Response) -> float:
        self._enter()
        assert self._met.wait(10)
        return self._leave()

    async def wait(self, _: Response) -> float:
        self._enter()
        deadline = time.monotonic() + 10
        await asyncio.sleep(0)
        while not self._met.is_set():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.005)
        return self._leave()


@pytest.mark.parametrize("concurrency", [1, 16, 256])
@pytest.mark.parametrize("kind", [Meeting.wait, Meeting.block])
def test_as_many_calls_are_open_as_concurrency_says(kind: Callable[..., Any], concurrency: int) -> None:
    """Over groups that are scored at a time: one group alone has too few responses."""
    meeting = Meeting(min(concurrency, 320))
    reward = FunctionReward(functools.partial(kind, meeting), concurrency=concurrency)

    async def score() -> list[list[Score]]:
        return await asyncio.gather(*(reward.score_async(responses_to("1", TEXTS)) for _ in range(8)))

    assert asyncio.run(score()) == [[Score(1.0, True)] * 40] * 8
    assert (meeting.most, meeting.open) == (concurrency, 0)


class Judge:
    async def __call__(self, response: Response) -> float:
        await asyncio.sleep(0)
        return float(response.text == "1")


async def judge(response: Response) -> float:
    return await Judge()(response)


def test_an_async_function_waits_64_times_at_once_and_an_ordinary_one_not_at_all() -> None:
    for waiting in (judge, Judge(), functools.partial(judge)):
        reward = FunctionReward(waiting)
        assert reward.concurrency == 64
        assert [score.reward for score in reward.score(responses_to("1", TEXTS[:3]))] == [0.0, 1.0, 0.0]
    threads: list[threading.Thread] = []
    plain = FunctionReward(lambda _: bool(threads.append(threading.current_thread())))  # type: ignore[func-returns-value]
    plain.score(responses_to("1", TEXTS))
    assert plain.concurrency == 1 and len({*threads}) == 1
    coroutine = judge(responses_to("1", [""])[0])
    with pytest.raises(PartError, match="give the async def itself"):
        FunctionReward(lambda _: coroutine).score(responses_to("1", [""]))
    coroutine.close()


async def fails(response: Response) -> Any:
    """A tenth of the responses each: an error, no end, no number."""
    if (way := int(response.text) % 10) == 1:
        raise ConnectionError("refused")
    if way == 2:
        await asyncio.sleep(60)
    return {3: float("nan"), 4: Score(float("nan"), True)}.get(way, 1.0)


def fails_at_once(response: Response) -> Any:
    if response.text.endswith("2"):
        raise TimeoutError
    return asyncio.run(fails(response))


@pytest.mark.parametrize("concurrency", [1, 16])
def test_where_all_responses_fail_the_function_is_at_fault(concurrency: int) -> None:
    def down(response: Response) -> float:
        raise ConnectionError("refused")

    reward = FunctionReward(down, concurrency=concurrency, on_failure=0.0)
    with pytest.warns(UserWarning), pytest.raises(PartError, match="refused; so did all of the first 64 responses"):
        asyncio.run(reward.score_async(responses_to("1", ["1"] * 100)))


@pytest.mark.parametrize(
    "settings", [{"time_limit": 0.03}, {"time_limit": 0.03, "concurrency": 1}, {"concurrency": 16}, {}]
)
def test_failures_score_what_is_set_and_are_counted_and_said_once(settings: dict[str, Any]) -> None:
    function = fails if "time_limit" in settings else fails_at_once
    reward = FunctionReward(function, on_failure=0.25, **settings)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scores = reward.score(responses_to("1", TEXTS)) + reward.score(responses_to("1", ["1"]))
    failed, right = Score(0.25, False), Score(1.0, True)
    assert scores == [failed if int(text) % 10 in (1, 2, 3, 4) else right for text in TEXTS] + [failed]
    (said,) = [str(each.message) for each in caught]
    assert f"test_waiting.{function.__name__}" in said and "scores 0.25, and rollouts/reward_failures counts" in said
    assert [reward.figures() for _ in range(2)] == [{"reward_failures": 17.0}, {"reward_failures": 0.0}]
    assert "failures 0.25" in reward.label and "failures" not in FunctionReward(function).label


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1", "raised ConnectionError: refused"),
        ("2", "took longer than time_limit, 0.03 s"),
        ("3", r"fails \(.*test_waiting.py:\d+\), problem p: returned nan; expected a number"),
        ("4", r"fails \(.*test_waiting.py:\d+\), problem p: returned Score\(reward=nan"),
    ],
)
def test_without_that_setting_a_failure_is_an_error_that_ends_the_other_calls(text: str, words: str) -> None:
    ended: list[str] = []

    @functools.wraps(fails)
    async def judge(response: Response) -> Any:
        try:
            return await (fails(response) if response.text == text else asyncio.sleep(60))
        finally:
            ended.append(response.text)

    async def score() -> None:
        with pytest.raises(PartError, match=rf"fails.*, problem p: .*{words}|{words}") as caught:
            await FunctionReward(judge, time_limit=0.03 if text == "2" else None).score_async(responses)
        await asyncio.sleep(0)
        assert sorted(ended) == sorted(response.text for response in responses)
        if text == "1":
            assert "test_waiting.py" in caught.value.trace and "raise ConnectionError" in caught.value.trace

    responses = responses_to("1", ["50", text, "60"])
    asyncio.run(score())


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize(("retries", "failures"), [(0, 40), (1, 20), (2, 0)])
def test_a_failed_response_is_tried_again(retries: int, failures: int, concurrency: int) -> None:
    """Half of the responses succeed at the second attempt, the others at the third."""
    attempts = dict.fromkeys(TEXTS, 0)

    async def judge(response: Response) -> float:
        attempts[response.text] += 1
        if attempts[response.text] <= 1 + int(response.text) % 2:
            raise ConnectionError
        return 1.0

    reward = FunctionReward(judge, concurrency=concurrency, retries=retries, on_failure=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scores = reward.score(responses_to("1", TEXTS))
    assert sum(not score.correct for score in scores) == failures == reward.figures()["reward_failures"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"concurrency": 0}, "concurrency is 0"),
        ({"retries": -1}, "retries -1"),
        ({"on_failure": 1.5}, "on_failure 1.5; they must"),
        ({"on_failure": float("nan")}, "on_failure nan"),
        ({"time_limit": 0.0}, "time_limit is 0.0; it must be above 0"),
        (
            {"function": fails_at_once, "time_limit": 1.0},
            "fails_at_once an async def: an ordinary function cannot be stopped",
        ),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        FunctionReward(**{"function": fails, **settings})


@pytest.mark.parametrize("default", ["MathReward", "GymReward", "LastNumberReward"])
def test_a_configuration_takes_no_setting_of_the_reward_that_it_replaces(default: str) -> None:
    """The parser keeps settings of a replaced class whose names the new class has."""
    function = f"--data.reward.init_args.function={__name__}.fails"
    config = config_of(
        "fit", "--config=arithmetic", f"--data.reward={default}", "--data.reward=FunctionReward", function
    )
    given = config["data"]["reward"]["init_args"]
    assert {given[name] for name in ("concurrency", "time_limit", "on_failure")} == {None} and given["retries"] == 0


def test_parts_of_a_combined_reward_may_wait() -> None:
    class Waits(Reward):
        async def score(self, responses: Any) -> list[Score]:  # type: ignore[override]
            await asyncio.sleep(0.01)
            return [Score(0.5, False)] * len(responses)

    rewards = {"judge": FunctionReward(judge), "blocks": FunctionReward(lambda _: 0.5, concurrency=4), "class": Waits()}
    combined = CombinedReward(rewards, {"judge": 0.5, "blocks": 0.25, "class": 0.25})
    scores = combined.score(responses_to("1", ["0", "1"]))
    assert [(score.reward, score.correct) for score in scores] == [(0.25, False), (0.75, True)]
    assert scores[1].parts == {"judge": 1.0, "blocks": 0.5, "class": 0.5}


def test_a_function_that_blocks_keeps_its_place_when_nobody_waits_for_it_and_does_not_hold_up_the_end() -> None:
    """Three of four calls begin: one of the first two ends, and the other is not waited for."""
    script = """if True:
        import asyncio, time
        from rence_lightning.parts import Problem
        from rence_lightning.rewards import FunctionReward, Response
        begun = []
        def blocks(response):
            begun.append(response.text)
            time.sleep(float(response.text))
            return 1.0
        reward = FunctionReward(blocks, concurrency=2)
        responses = [Response(Problem("p", "?", "1"), text) for text in ("600", "0.3", "601", "602")]
        async def main():
            try:
                await asyncio.wait_for(reward.score_async(responses[:2]), 0.1)
            except TimeoutError:
                pass
            try:
                await asyncio.wait_for(reward.score_async(responses[2:]), 0.6)
            except TimeoutError:
                print(begun)
        asyncio.run(main())
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("['600', '0.3', '601']\n", "")
