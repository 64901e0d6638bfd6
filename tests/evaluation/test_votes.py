"""Votes of equal answers, and the record of a problem made from the parts of a group."""

from array import array
from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rence_lightning.evaluation import EvaluatedProblem, Sample, evaluated_problem
from rence_lightning.evaluation.samples import votes
from rence_lightning.prompts import Problem
from rence_lightning.rewards import MathReward, Score
from rence_lightning.rollouts import Rollout


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["1/2", r"\frac12", None, "0.5", "3", "3.0"], [0, 0, -1, 0, 1, 1]),
        ([None, None], [-1, -1]),
        (["", "7", ""], [0, 1, 0]),
    ],
)
def test_equal_answers_vote_alike(answers: list[str | None], expected: list[int]) -> None:
    reward = MathReward(workers=1)
    wrong = [Score(0.1, False, answer) for answer in answers]
    assert votes(wrong, reward.same) == expected
    right = [Score(1.0, answer is not None, answer) for answer in answers]
    assert set(votes(right, reward.same)) <= {0, -1}, "answers that equal the reference are equal"


def fractions_equal(pairs: Sequence[tuple[str, str]]) -> list[bool]:
    return [Fraction(a) == Fraction(b) for a, b in pairs]


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([None, "1/2", "2/4", "0.5", "3", "3.0", "6/2", "4"]), st.booleans()), max_size=12
    )
)
def test_votes_are_those_of_a_comparison_with_every_earlier_answer(
    given_answers: list[tuple[str | None, bool]],
) -> None:
    scores = [Score(0.0, correct and answer is not None, answer) for answer, correct in given_answers]
    expected: list[int] = []
    for position, score in enumerate(scores):
        equal = [
            expected[earlier]
            for earlier, other in enumerate(scores[:position])
            if score.answer is not None and other.answer is not None and other.correct == score.correct
            if score.correct or Fraction(other.answer) == Fraction(score.answer)
        ]
        expected.append(-1 if score.answer is None else equal[0] if equal else 1 + max(expected, default=-1))
    assert votes(scores, fractions_equal) == expected


def test_a_spelling_is_compared_once() -> None:
    compared: list[tuple[str, str]] = []

    def same(pairs: Sequence[tuple[str, str]]) -> list[bool]:
        compared.extend(pairs)
        return fractions_equal(pairs)

    answers = ["1/2", "3", "1/2", "0.5", "3", "0.5", "1/2"]
    assert votes([Score(0.1, False, answer) for answer in answers], same) == [0, 1, 0, 0, 1, 0, 0]
    assert compared == [("1/2", "3"), ("1/2", "0.5"), ("3", "0.5")]


def test_a_record_is_made_from_the_parts_of_a_group() -> None:
    problem = Problem("7", "What is 1/2 + 1/2?", "1")
    rollouts = [
        Rollout(array("i", [5, 6, 7]), array("f", [0.0] * 3), "stop"),
        Rollout(array("i", [5, 6]), array("f", [0.0] * 2), "length"),
        Rollout(array("i", [5]), array("f", [0.0]), "stop"),
    ]
    scores = [Score(1.0, True, "2/2"), Score(0.0, False, None), Score(1.0, True, "1")]
    record = evaluated_problem(problem, "<user>1+1", ["a", "b", "c"], rollouts, scores, fractions_equal)
    samples = (
        Sample("a", "2/2", True, 1.0, 0, 3, "stop"),
        Sample("b", None, False, 0.0, -1, 2, "length"),
        Sample("c", "1", True, 1.0, 0, 1, "stop"),
    )
    assert record == EvaluatedProblem("7", "What is 1/2 + 1/2?", "<user>1+1", "1", samples)
