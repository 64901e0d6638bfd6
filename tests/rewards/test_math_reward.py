"""The reward of a response: 1 boxed and correct, 0.1 boxed and wrong, 0 without a box."""

import copy
import threading
from collections.abc import Iterator

import pytest
from graded_groups import responses_to
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rence_lightning.errors import UserError
from rence_lightning.rewards import MathReward, Score, math_equivalent


@pytest.fixture(scope="module")
def reward() -> Iterator[MathReward]:
    reward = MathReward(workers=1)
    yield reward
    reward.close()


def test_the_three_rewards(reward: MathReward) -> None:
    responses = [
        r"Half, \boxed{\frac12}.",
        r"It is \boxed{0.5}, no, \boxed{0.6}.",
        "It is 1/2.",
        r"\boxed{}",
        r"first \boxed{1/2}, then cut \boxed{0.",
    ]
    assert reward.score(responses_to("$1/2$", responses)) == [
        Score(1.0, True, r"\frac12"),
        Score(0.1, False, "0.6"),
        Score(0.0, False, None),
        Score(0.1, False, ""),
        Score(1.0, True, "1/2"),
    ]


def test_rewards_are_settings() -> None:
    reward = MathReward(correct=0.9, wrong=0.3, unboxed=0.2)
    scores = copy.deepcopy(reward).score(responses_to("1", [r"\boxed{1}", r"\boxed{2}", ""]))
    assert [score.reward for score in scores] == [0.9, 0.3, 0.2]


def test_a_correct_answer_must_earn_the_most() -> None:
    with pytest.raises(UserError, match="correct=0"):
        MathReward(correct=0.0)
    for wrong in ({"correct": 2.0}, {"wrong": -0.1}, {"unboxed": -0.1}):
        with pytest.raises(UserError, match="must be from 0 to 1"):
            MathReward(**wrong)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans()), max_size=12))
def test_order_is_kept(reward: MathReward, cases: list[tuple[int, int, bool]]) -> None:
    gold = [f"{right}/4" for right, _, _ in cases]
    responses = [rf"\boxed{{{given / 4}}}" if boxed else str(given / 4) for _, given, boxed in cases]
    expected = [(right == given if boxed else None) for right, given, boxed in cases]
    assert [
        score.correct if score.answer is not None else None for score in reward.score(responses_to(gold, responses))
    ] == expected


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_categories=()), max_size=40))
def test_any_text_is_scored(reward: MathReward, text: str) -> None:
    [score] = reward.score(responses_to("31415926", [f"\\boxed{{{text}}}"]))
    assert score.reward in (0.0, 0.1)


def test_math_equivalent_off_the_main_thread() -> None:
    results: list[bool] = []
    thread = threading.Thread(
        target=lambda: results.extend([math_equivalent("1/2", "0.5"), math_equivalent("1/2", "\ud800")])
    )
    thread.start()
    thread.join(60)
    assert results == [True, False]
