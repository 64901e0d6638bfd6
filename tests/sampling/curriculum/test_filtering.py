"""What becomes of a group: every case of the filter, and its boundaries."""

import pytest
from graded_groups import graded
from hypothesis import given
from hypothesis import strategies as st

from examples.drop_truncated import DropTruncated
from rence_lightning.errors import UserError
from rence_lightning.sampling import NoFilter, Outcome, PositiveRatioFilter, ZeroVarianceFilter

REWARD = {"c": 1.0, "w": 0.1, "-": 0.0}  # correct, boxed but wrong, no box


def judge(responses: str, **settings: object) -> tuple[Outcome, str]:
    """The outcome on responses such as `ccw-`, and which of them are positive, as `1100`."""
    rewards = [REWARD[response] for response in responses]
    decision = PositiveRatioFilter(**settings).judge(graded(rewards, [r == "c" for r in responses]))  # type: ignore[arg-type]
    return decision.outcome, "".join(str(int(positive)) for positive in decision.positive)


@pytest.mark.parametrize(
    ("responses", "outcome", "positive"),
    [
        ("cwwwwwww", Outcome.KEPT, "10000000"),
        ("ccccw---", Outcome.KEPT, "11110000"),  # rho = 0.5 = t_easy: inclusive
        ("cccccw--", Outcome.TOO_EASY, "11111000"),
        ("ccccccw-", Outcome.TOO_EASY, "11111100"),  # 0.75 <= t_master
        ("cccccccw", Outcome.MASTERED, "11111110"),
        ("cccccccc", Outcome.MASTERED, "11111111"),
        ("wwww----", Outcome.TOO_HARD, "00000000"),
        ("wwwwwwww", Outcome.TOO_HARD, "00000000"),  # all fail alike: rho read literally would be 1
        ("--------", Outcome.TOO_HARD, "00000000"),
    ],
)
def test_correct_answers_decide(responses: str, outcome: Outcome, positive: str) -> None:
    assert judge(responses) == (outcome, positive)


@pytest.mark.parametrize(
    ("responses", "outcome", "positive"),
    [
        ("www-----", Outcome.KEPT, "11100000"),  # the format reward makes positives
        ("wwwww---", Outcome.TOO_EASY, "11111000"),
        ("wwwwwwww", Outcome.TOO_HARD, "11111111"),  # never mastered: nobody solved it
        ("--------", Outcome.TOO_HARD, "11111111"),
        ("cw------", Outcome.KEPT, "10000000"),  # with a correct answer as by default
    ],
)
def test_best_answers_stand_in_where_none_is_correct(responses: str, outcome: Outcome, positive: str) -> None:
    assert judge(responses, positives="best") == (outcome, positive)


@given(st.integers(2, 200), st.integers(0, 200), st.integers(1, 99))
def test_thresholds_are_decimals_not_their_binary_neighbours(responses: int, correct: int, percent: int) -> None:
    correct = min(correct, responses)
    outcome = PositiveRatioFilter(t_easy=percent / 100, t_master=1.0).judge(
        graded([1.0] * correct + [0.0] * (responses - correct), [True] * correct + [False] * (responses - correct))
    )
    kept = 0 < 100 * correct <= percent * responses and correct < responses  # in integers
    assert (outcome.outcome is Outcome.KEPT) == kept


@given(st.integers(2, 200), st.integers(0, 200), st.integers(0, 89))
def test_the_hard_threshold_is_exclusive(responses: int, correct: int, percent: int) -> None:
    correct = min(correct, responses - 1)
    outcome, _ = judge("c" * correct + "w" * (responses - correct), t_hard=percent / 100, t_easy=1.0, t_master=1.0)
    too_hard = 100 * correct <= percent * responses  # in integers
    assert outcome is (Outcome.TOO_HARD if too_hard else Outcome.KEPT)


@given(st.integers(1, 200), st.integers(0, 200), st.integers(1, 99), st.sampled_from(["correct", "best"]))
def test_mastery_is_more_than_its_share_of_correct_answers(
    responses: int, correct: int, percent: int, positives: str
) -> None:
    correct = min(correct, responses)
    outcome, _ = judge("c" * correct + "w" * (responses - correct), t_master=percent / 100, positives=positives)
    assert (outcome is Outcome.MASTERED) == (100 * correct > percent * responses)  # in integers


@given(st.text(alphabet="cw-", min_size=1, max_size=12), st.sampled_from(["correct", "best"]))
def test_a_kept_group_has_positives_and_negatives(responses: str, positives: str) -> None:
    outcome, positive = judge(responses, positives=positives, t_easy=1.0, t_master=1.0)
    if outcome is Outcome.KEPT:
        assert set(positive) == {"0", "1"}
        assert {responses[i] for i, p in enumerate(positive) if p == "1"}.isdisjoint(
            {responses[i] for i, p in enumerate(positive) if p == "0"}
        ), "responses of one reward on both sides of the contrast"


def test_shaped_rewards_do_not_decide_difficulty() -> None:
    """Penalised correct answers are correct: P and rho go by correctness."""
    for positives in ("correct", "best"):
        judge_all = PositiveRatioFilter(positives=positives).judge  # type: ignore[arg-type]
        decision = judge_all(graded([0.4, 0.9, 0.1, 0.1], [True, True, False, False]))
        assert decision.outcome is Outcome.KEPT
        assert decision.positive == (True, True, False, False), f"positives: {positives}"


@pytest.mark.parametrize(
    "settings",
    [
        {"t_hard": 0.5, "t_easy": 0.5},
        {"t_hard": 0.6, "t_easy": 0.5},
        {"t_easy": 1.1},
        {"t_hard": -0.1},
        {"t_hard": 0.3, "t_master": 0.2},
        {"t_hard": 0.3, "t_master": 0.3},
        {"t_master": 1.1},
        {"t_easy": float("nan")},
    ],
)
def test_thresholds_out_of_order_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UserError, match="filter: need") as error:
        PositiveRatioFilter(**settings)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [2, 3, 5, 8, 100])
def test_zero_variance_keeps_all_but_the_alike(size: int) -> None:
    expected = {0: Outcome.TOO_HARD, size: Outcome.TOO_EASY}
    for right in range(size + 1):
        correct = [True] * right + [False] * (size - right)
        decision = ZeroVarianceFilter().judge(graded([float(c) for c in correct], correct))
        assert decision.outcome is expected.get(right, Outcome.KEPT), f"{right} of {size} correct"
        assert decision.positive == tuple(correct)


@given(st.lists(st.booleans(), min_size=1, max_size=16))
def test_no_filter_keeps_everything(correct: list[bool]) -> None:
    decision = NoFilter().judge(graded([1.0] * len(correct), correct))
    assert decision.outcome is Outcome.KEPT
    assert decision.positive == tuple(correct), "P is the correct responses, whatever their rewards"


@given(
    st.lists(st.tuples(st.sampled_from("cw-"), st.booleans()), min_size=2, max_size=10),
    st.sampled_from(["correct", "best"]),
)
def test_truncated_responses_leave_the_contrast(responses: list[tuple[str, bool]], positives: str) -> None:
    """P comes from the responses that ended, and the outcome from all, as far as those that ended have a contrast."""
    letters, cut = zip(*responses, strict=True)
    rewards, correct = [REWARD[letter] for letter in letters], [letter == "c" for letter in letters]
    inner = PositiveRatioFilter(positives=positives)  # type: ignore[arg-type]
    decision = DropTruncated(inner).judge(graded(rewards, correct, cut))
    whole = inner.judge(graded(rewards, correct))
    rest = [index for index, truncated in enumerate(cut) if not truncated]
    if not rest:
        assert decision.outcome is (Outcome.TOO_HARD if whole.outcome is Outcome.KEPT else whole.outcome)
        assert not any(decision.positive)
        return
    alone = inner.judge(graded([rewards[index] for index in rest], [correct[index] for index in rest]))
    assert decision.dropped == tuple(cut)
    assert [decision.positive[index] for index in rest] == list(alone.positive)
    assert not any(positive and dropped for positive, dropped in zip(decision.positive, cut, strict=True))
    if decision.outcome is not whole.outcome:
        assert whole.outcome is Outcome.KEPT
        assert decision.outcome is (Outcome.TOO_EASY if any(alone.positive) else Outcome.TOO_HARD)
    if decision.outcome is Outcome.KEPT:
        assert set(alone.positive) == {True, False}


@pytest.mark.parametrize(
    ("responses", "cut", "outcome", "positive"),
    [
        ("cc------", "..cccccc", Outcome.TOO_EASY, "11000000"),  # not mastered: six of eight were not solved in time
        ("ccw-----", "...ccccc", Outcome.KEPT, "11000000"),
        ("cc------", "cc......", Outcome.TOO_HARD, "00000000"),  # the right ones were cut
        ("cccccccc", "c.......", Outcome.MASTERED, "01111111"),
        ("ccccccw-", ".......c", Outcome.TOO_EASY, "11111100"),
        ("--------", "cccccccc", Outcome.TOO_HARD, "00000000"),
    ],
)
def test_outcomes_with_truncated_responses(responses: str, cut: str, outcome: Outcome, positive: str) -> None:
    rewards = [REWARD[response] for response in responses]
    group = graded(rewards, [each == "c" for each in responses], [each == "c" for each in cut])
    decision = DropTruncated().judge(group)
    assert decision.outcome is outcome
    assert "".join(str(int(each)) for each in decision.positive) == positive
