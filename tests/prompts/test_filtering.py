"""What becomes of a group: every case of the filter, and its boundaries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rence_lightning.errors import UserError
from rence_lightning.prompts import PositiveRatioFilter, Verdict

REWARD = {"c": 1.0, "w": 0.1, "-": 0.0}  # correct, boxed but wrong, no box


def judge(responses: str, **settings: object) -> tuple[Verdict, str]:
    """The verdict on responses such as `ccw-`, and which of them are positive, as `1100`."""
    rewards = [REWARD[response] for response in responses]
    judgement = PositiveRatioFilter(**settings).judge(rewards, [r == "c" for r in responses])  # type: ignore[arg-type]
    return judgement.verdict, "".join(str(int(positive)) for positive in judgement.positive)


@pytest.mark.parametrize(
    ("responses", "verdict", "positive"),
    [
        ("cwwwwwww", Verdict.KEPT, "10000000"),
        ("ccccw---", Verdict.KEPT, "11110000"),  # rho = 0.5 = t_easy: inclusive
        ("cccccw--", Verdict.TOO_EASY, "11111000"),
        ("ccccccw-", Verdict.TOO_EASY, "11111100"),  # 0.75 <= t_master
        ("cccccccw", Verdict.MASTERED, "11111110"),
        ("cccccccc", Verdict.MASTERED, "11111111"),
        ("wwww----", Verdict.TOO_HARD, "00000000"),
        ("wwwwwwww", Verdict.TOO_HARD, "00000000"),  # all fail alike: rho read literally would be 1
        ("--------", Verdict.TOO_HARD, "00000000"),
    ],
)
def test_correct_answers_decide(responses: str, verdict: Verdict, positive: str) -> None:
    assert judge(responses) == (verdict, positive)


@pytest.mark.parametrize(
    ("responses", "verdict", "positive"),
    [
        ("www-----", Verdict.KEPT, "11100000"),  # the format reward makes positives
        ("wwwww---", Verdict.TOO_EASY, "11111000"),
        ("wwwwwwww", Verdict.TOO_HARD, "11111111"),  # never mastered: nobody solved it
        ("--------", Verdict.TOO_HARD, "11111111"),
        ("cw------", Verdict.KEPT, "10000000"),  # with a correct answer as by default
    ],
)
def test_best_answers_stand_in_where_none_is_correct(responses: str, verdict: Verdict, positive: str) -> None:
    assert judge(responses, positives="best") == (verdict, positive)


def test_zero_variance_filtering_is_a_special_case() -> None:
    settings = {"t_easy": 0.99, "t_master": 1.0}
    assert judge("cccccccw", **settings)[0] is Verdict.KEPT
    assert judge("cccccccc", **settings)[0] is Verdict.TOO_EASY, "t_master 1 masters nothing"
    assert judge("wwwwwwww", **settings)[0] is Verdict.TOO_HARD
    assert judge("cccccccc", t_easy=1.0, t_master=1.0)[0] is Verdict.TOO_EASY, "no negative, no contrast"


@given(st.integers(2, 200), st.integers(0, 200), st.integers(1, 99))
def test_thresholds_are_decimals_not_their_binary_neighbours(responses: int, correct: int, percent: int) -> None:
    correct = min(correct, responses)
    verdict = PositiveRatioFilter(t_easy=percent / 100, t_master=1.0).judge(
        [1.0] * correct + [0.0] * (responses - correct), [True] * correct + [False] * (responses - correct)
    )
    kept = 0 < 100 * correct <= percent * responses and correct < responses  # in integers
    assert (verdict.verdict is Verdict.KEPT) == kept


def test_shaped_rewards_do_not_decide_difficulty() -> None:
    """Penalised correct answers are correct: P and rho go by correctness."""
    judgement = PositiveRatioFilter().judge([0.4, 0.9, 0.1, 0.1], [True, True, False, False])
    assert judgement.verdict is Verdict.KEPT
    assert judgement.positive == (True, True, False, False)


@pytest.mark.parametrize(
    "settings", [{"t_hard": 0.5, "t_easy": 0.5}, {"t_easy": 1.1}, {"t_hard": -0.1}, {"t_hard": 0.3, "t_master": 0.2}]
)
def test_thresholds_out_of_order_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UserError, match="filter: need"):
        PositiveRatioFilter(**settings)  # type: ignore[arg-type]
