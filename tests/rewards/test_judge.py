"""The two judges of MathReward: the rules of this project, and math-verify alone."""

import pytest
from graded_groups import responses_to
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

from rence_lightning.errors import UserError
from rence_lightning.rewards import CombinedReward, FunctionReward, MathReward

PAIRS = [
    ("1/2", "0.5"),
    ("1/3", "0.333"),
    ("listen", "silent"),
    (r"\text{East}", "east"),
    ("(1,2)", "(2,1)"),
    (r"\{1,2\}", r"\{2,1\}"),
    ("x<3", r"(-\infty,3)"),
    (r"1.6 \pm 0.05", "1.571"),
    ("(C)", "(C) 12"),
    ("1234", "1,234"),
    ("5", ""),
]


def alone(gold: str, prediction: str) -> bool:
    """math-verify as its users call it."""
    targets = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    return bool(verify(*(parse(rf"\boxed{{{answer}}}", targets) for answer in (gold, prediction))))


def test_math_verify_alone_gives_its_own_verdicts() -> None:
    gold, answers = zip(*PAIRS, strict=True)
    responses = responses_to(gold, [rf"It is \boxed{{{answer}}}." for answer in answers])
    plain, rules = MathReward(judge="math_verify", workers=1), MathReward(workers=1)
    verdicts = [[score.correct for score in reward.score(responses)] for reward in (plain, rules)]
    assert verdicts[0] == [alone(*pair) for pair in PAIRS]
    assert verdicts[0] != verdicts[1], "the pairs do not tell the judges apart"
    assert plain.same([("listen", "silent")]) == [True] and rules.same([("listen", "silent")]) == [False]
    plain.close()
    rules.close()


def test_the_description_of_an_evaluation_tells_judges_apart() -> None:
    assert MathReward().label == "MathReward"
    assert MathReward(judge="math_verify").label == "MathReward (math_verify)"
    function = FunctionReward(lambda response: 0.5, 0.5)
    assert function.label.startswith("FunctionReward (test_judge.") and "correct from 0.5" in function.label
    combined = CombinedReward({"a": MathReward(), "b": function}, {"a": 0.75, "b": 0.25})
    assert combined.label == f"CombinedReward (0.75 MathReward, 0.25 {function.label})"
    with pytest.raises(UserError, match="judge is 'sympy'; it must be one of rules, math_verify"):
        MathReward(judge="sympy")  # type: ignore[arg-type]
