"""A function as a reward: what it may return, what counts as correct, and what is said of anything else."""

import asyncio
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from graded_groups import responses_to

from rence_lightning.errors import PartError, UserError
from rence_lightning.rewards import FunctionReward, Response, Reward, Score
from rence_lightning.sampling.grading import GradingThread
from rence_lightning.sampling.scoring import scores_of


def share(response: Response) -> float:
    """Partial credit: the share of the answer's characters that the text begins with."""
    answer = response.problem.answer
    return sum(a == b for a, b in zip(answer, response.text, strict=False)) / len(answer)


def test_a_number_is_the_reward_and_its_threshold_decides_what_is_correct() -> None:
    responses = responses_to("1234", ["1234", "123", "1", ""])
    assert [score.reward for score in FunctionReward(share).score(responses)] == [1.0, 0.75, 0.25, 0.0]
    for threshold, correct in ((1.0, 1), (0.75, 2), (0.2, 3)):
        scores = FunctionReward(share, correct_from=threshold).score(responses)
        assert [score.correct for score in scores] == [True] * correct + [False] * (4 - correct)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, Score(1.0, True)),
        (False, Score(0.0, False)),
        (Fraction(1, 2), Score(0.5, False)),
        (0.7 + 0.2 + 0.1, Score(1.0, True)),  # 0.9999999999999999
        (1 + 1e-9, Score(1.0, True)),
        (-1e-9, Score(0.0, False)),
        (1 - 1e-5, Score(1 - 1e-5, False)),
        (Score(0.5, True, "7"), Score(0.5, True, "7")),
    ],
)
def test_truth_values_numbers_and_scores(value: Any, expected: Score) -> None:
    assert FunctionReward(lambda _: value).score(responses_to("1", [""])) == [expected]


@pytest.mark.parametrize(
    "value", [None, "1.0", b"1.0", 10**400, [1.0], np.array([1.0, 0.0]), 2.0, 1 + 1e-5, -1e-5, float("nan")]
)
def test_anything_else_is_refused_with_the_function_and_the_problem(value: Any) -> None:
    def judge(_: Response) -> Any:
        return value

    place, expected = r"test_function_reward.py:\d+\)", "a number from 0 to 1, True, False or a Score"
    words = rf"judge \(.*{place}, problem p: returned .*; expected {expected}"
    with pytest.raises(PartError, match=words):
        FunctionReward(judge).score(responses_to("1", [""]))


def test_an_invalid_score_is_that_of_the_function_too() -> None:
    for score, words in (
        (Score(2.0, True), r"problem p: returned Score\(reward=2"),
        (Score(1.0, True, 7), "returned 7"),
    ):  # type: ignore[arg-type]
        with pytest.raises(PartError, match=rf"<lambda> \(.*_reward.py:\d+\), .*{words}"):
            asyncio.run(scores_of(FunctionReward(lambda _, score=score: score), responses_to("1", [""])))


class FunctionTimedOut(BaseException):
    """As func_timeout and pytest have them."""


OUTSIDE = [SystemExit(3), KeyboardInterrupt(), FunctionTimedOut("slow"), asyncio.CancelledError(), StopIteration()]


class Raises(Reward):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def score(self, responses: Any) -> list[Score]:
        raise self.error


@pytest.mark.parametrize("error", OUTSIDE, ids=repr)
@pytest.mark.parametrize("kind", ["function", "threads", "async", "class"])
def test_a_reward_that_would_end_its_thread_ends_the_run_and_is_named(kind: str, error: BaseException) -> None:
    def raises(_: Response) -> float:
        raise error

    async def waits(_: Response) -> float:
        raise error

    reward: Reward
    if kind == "class":
        reward, name = Raises(error), "Raises, score"
    else:
        function = waits if kind == "async" else raises
        reward, name = FunctionReward(function, concurrency=4 if kind == "threads" else 1), function.__name__
    grading = GradingThread()
    words = rf"{name}.*, problem p: raised (RuntimeError: coroutine raised )?{type(error).__name__}"
    with pytest.raises(PartError, match=words):
        grading.submit(scores_of(reward, responses_to("1", ["", ""]))).result(10)
    assert grading.submit(asyncio.sleep(0, "alive")).result(10) == "alive"
    grading.close()


def test_settings_are_checked() -> None:
    with pytest.raises(UserError, match="function is 'len'; give a function of a response"):
        FunctionReward("len")  # type: ignore[arg-type]
    for other in FOREIGN:
        with pytest.raises(
            UserError, match=r"\(.*\) is not a function of one response; .* response.text, response.prob"
        ):
            FunctionReward(other)
    for threshold in (0.0, 1.5, float("nan")):
        with pytest.raises(UserError, match=r"correct_from is .*; it must be in \(0, 1\]"):
            FunctionReward(share, threshold)


FOREIGN: list[Callable[..., Any]] = [
    lambda gold, response: 1.0,
    lambda completions, **kwargs: [1.0] * len(completions),  # TRL
    lambda prompts, completions, answer: [1.0] * len(completions),
    lambda data_source, solution_str, ground_truth, extra_info=None: 1.0,  # verl
    lambda queries, prompts, labels: [1.0] * len(queries),  # OpenRLHF
    lambda: 1.0,
]


def test_an_error_names_the_function_and_the_problem() -> None:
    def broken(response: Response) -> float:
        return 1 / len(response.text)

    with pytest.raises(PartError, match=r"test_function_reward\..*broken, problem p: raised ZeroDivisionError"):
        FunctionReward(broken).score(responses_to("1", [""]))


def test_labels_tell_functions_of_one_name_apart() -> None:
    def strict() -> FunctionReward:
        return FunctionReward(lambda response: response.text == response.problem.answer)

    lenient = FunctionReward(lambda response: response.text.strip() == response.problem.answer)
    assert strict().label == strict().label != lenient.label
