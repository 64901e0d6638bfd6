"""The reward of a response: 1 boxed and correct, 0.1 boxed and wrong, 0 without a box; and its two judges."""

import copy
import threading
from collections.abc import Iterator

import pytest
from graded_groups import responses_to
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

from rence_lightning.errors import UserError
from rence_lightning.rewards import CombinedReward, FunctionReward, MathReward, Score, math_equivalent


@pytest.fixture(scope="module")
def reward() -> Iterator[MathReward]:
    reward = MathReward(workers=1)
    yield reward
    reward.close()


def test_the_three_rewards_are_settings(reward: MathReward) -> None:
    responses = [
        r"Half, \boxed{\frac12}.",
        r"It is \boxed{0.5}, no, \boxed{0.6}.",
        "It is 1/2.",
        r"\boxed{}",
        r"first \boxed{1/2}, then cut \boxed{0.",
    ]
    scores = [Score(1.0, True, r"\frac12"), Score(0.1, False, "0.6"), Score(0.0, False), Score(0.1, False, "")]
    assert reward.score(responses_to("$1/2$", responses)) == [*scores, Score(1.0, True, "1/2")]
    other = copy.deepcopy(MathReward(correct=0.9, wrong=0.3, unboxed=0.2))
    scores = other.score(responses_to("1", [r"\boxed{1}", r"\boxed{2}", ""]))
    assert [score.reward for score in scores] == [0.9, 0.3, 0.2]


@pytest.mark.parametrize("rewards", [{"correct": 0.0}, {"correct": 2.0}, {"wrong": -0.1}, {"unboxed": 1.0}])
def test_a_correct_answer_must_earn_the_most(rewards: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"must be greater than wrong=.* all from 0 to 1"):
        MathReward(**rewards)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans()), max_size=12))
def test_order_is_kept(reward: MathReward, cases: list[tuple[int, int, bool]]) -> None:
    gold = [f"{right}/4" for right, _, _ in cases]
    responses = [rf"\boxed{{{given / 4}}}" if boxed else str(given / 4) for _, given, boxed in cases]
    expected = [(right == given if boxed else None) for right, given, boxed in cases]
    scores = reward.score(responses_to(gold, responses))
    assert [None if score.answer is None else score.correct for score in scores] == expected


def test_math_equivalent_off_the_main_thread() -> None:
    results: list[bool] = []
    pairs = [("1/2", "0.5"), ("1/2", "\ud800")]
    thread = threading.Thread(target=lambda: results.extend(math_equivalent(*pair) for pair in pairs))
    thread.start()
    thread.join(60)
    assert results == [True, False]


PAIRS = [
    *(("1/2", "0.5"), ("1/3", "0.333"), ("listen", "silent"), (r"\text{East}", "east"), ("(1,2)", "(2,1)"), ("5", "")),
    *(
        (r"\{1,2\}", r"\{2,1\}"),
        ("x<3", r"(-\infty,3)"),
        (r"1.6 \pm 0.05", "1.571"),
        ("(C)", "(C) 12"),
        ("1234", "1,234"),
    ),
]


def alone(gold: str, prediction: str) -> bool:
    """math-verify as its users call it."""
    targets = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    return bool(verify(*(parse(rf"\boxed{{{answer}}}", targets) for answer in (gold, prediction))))


def test_math_verify_alone_gives_its_own_verdicts(reward: MathReward) -> None:
    gold, answers = zip(*PAIRS, strict=True)
    responses = responses_to(gold, [rf"It is \boxed{{{answer}}}." for answer in answers])
    plain = MathReward(judge="math_verify", workers=1)
    verdicts = [[score.correct for score in each.score(responses)] for each in (plain, reward)]
    assert verdicts[0] == [alone(*pair) for pair in PAIRS]
    assert verdicts[0] != verdicts[1], "the pairs do not tell the judges apart"
    assert plain.same([("listen", "silent")]) == [True] and reward.same([("listen", "silent")]) == [False]
    plain.close()


def test_the_description_of_an_evaluation_tells_judges_apart() -> None:
    assert MathReward().label == "MathReward"
    assert MathReward(judge="math_verify").label == "MathReward (math_verify)"
    function = FunctionReward(lambda response: 0.5, 0.5)
    assert function.label.startswith("FunctionReward (test_math_reward.") and "correct from 0.5" in function.label
    combined = CombinedReward({"a": MathReward(), "b": function}, {"a": 0.75, "b": 0.25})
    assert combined.label == f"CombinedReward (0.75 MathReward, 0.25 {function.label})"
    with pytest.raises(UserError, match="judge is 'sympy'; it must be one of rules, math_verify"):
        MathReward(judge="sympy")  # type: ignore[arg-type]
