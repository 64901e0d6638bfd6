"""Several rewards in one: their weighted mean, the correctness of the first, and the logged parts and counts."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from arithmetic_run import fresh_start, make_data, make_module, make_trainer
from graded_groups import responses_to

from rence_lightning.errors import UserError
from rence_lightning.rewards import CombinedReward, MathReward, Response, Reward, Score


class Brevity(Reward):
    """1 for an empty response, falling to 0 at 100 characters."""

    def score(self, responses: Sequence[Response]) -> list[Score]:
        return [Score(max(0.0, 1 - len(response.text) / 100), True) for response in responses]

    def figures(self) -> dict[str, float]:
        return {"brief": 1.0}


def combined() -> CombinedReward:
    return CombinedReward({"math": MathReward(workers=1), "brevity": Brevity()}, {"math": 0.8, "brevity": 0.2})


def test_the_weighted_mean() -> None:
    reward = combined()
    texts = [r"\boxed{3}", r"\boxed{4}" + " " * 41, "no box"]
    scores = reward.score(responses_to("3", texts))
    assert [score.reward for score in scores] == pytest.approx([0.8 + 0.2 * 0.91, 0.8 * 0.1 + 0.2 * 0.5, 0.2 * 0.94])
    assert [score.correct for score in scores] == [True, False, False], "brevity alone calls all of them correct"
    assert [score.answer for score in scores] == ["3", "4", None]
    assert scores[0].parts == {"math": 1.0, "brevity": pytest.approx(0.91)}
    assert reward.same([("1/2", "0.5"), ("1", "2")]) == [True, False]


class Length(Brevity):
    def figures(self) -> dict[str, float]:
        return {"brief": 2.0, "long": 3.0}


def test_counts_of_equal_names_are_kept_apart() -> None:
    rewards: dict[str, Reward] = {"first": Brevity(), "second": Length(), "math": MathReward(workers=1)}
    counts = CombinedReward(rewards, dict.fromkeys(rewards, 1 / 3)).figures()
    named = {"first_brief": 1.0, "second_brief": 2.0, "long": 3.0}
    assert counts == {**named, "grading_timeouts": 0.0, "grading_crashes": 0.0}


def test_weights_must_be_those_of_the_rewards() -> None:
    with pytest.raises(UserError, match="rewards are math and weights none; give at least one reward"):
        CombinedReward({"math": MathReward()}, {})
    with pytest.raises(UserError, match="rewards are none"):
        CombinedReward({}, {})
    rewards: dict[str, Reward] = {"math": MathReward(), "brevity": Brevity()}
    with pytest.raises(UserError, match="must be 1 together"):
        CombinedReward(rewards, {"math": 1.0, "brevity": 0.25})
    with pytest.raises(UserError, match="must not be negative"):
        CombinedReward(rewards, {"math": 1.5, "brevity": -0.5})


def test_a_run_logs_the_parts(tmp_path: Path) -> None:
    fresh_start()
    trainer = make_trainer(tmp_path / "run", max_iterations=1)
    trainer.fit(make_module(), make_data(reward=combined()))
    figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
    whole = 0.8 * figures["rollouts/reward_math"] + 0.2 * figures["rollouts/reward_brevity"]
    assert figures["rollouts/reward"] == pytest.approx(whole)
    assert (figures["rollouts/brief"], figures["rollouts/grading_timeouts"]) == (1.0, 0.0)
    row = json.loads((tmp_path / "run" / "rollouts" / "iteration-0001.jsonl").read_text().splitlines()[0])
    assert all(response["parts"].keys() == {"math", "brevity"} for response in row["responses"])
