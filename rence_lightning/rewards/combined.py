"""Several rewards in one: their weighted sum."""

import math
from collections import Counter
from collections.abc import Sequence

from rence_lightning.errors import UserError
from rence_lightning.rewards.reward import Response, Reward, Score
from rence_lightning.rewards.waiting import scores_by, without_loop


class CombinedReward(Reward):
    """The weighted mean of several rewards. The first one decides what is correct, and what the answer is.

    Filters and metrics look at correctness alone, so that a shaped reward changes what the objective sees, and never
    which groups are trained on.

    Args:
        rewards: Rewards by name; the value of each is logged as `reward_NAME`.
        weights: Weights by the same names; none is negative, and together they are 1.

    Raises:
        UserError: If there is no reward, a reward has no weight, or the weights are negative or not 1 together.
    """

    def __init__(self, rewards: dict[str, Reward], weights: dict[str, float]) -> None:
        if not rewards or rewards.keys() != weights.keys():
            raise UserError(
                f"reward: rewards are {', '.join(rewards) or 'none'} and weights {', '.join(weights) or 'none'}; give "
                "at least one reward, and a weight for each"
            )
        if min(weights.values()) < 0 or not math.isclose(sum(weights.values()), 1.0, abs_tol=1e-6):
            raise UserError(
                f"reward: the weights {', '.join(map(str, weights.values()))} must not be negative and must be 1 "
                "together, so that the combined reward is in [0, 1]"
            )
        self.rewards, self.weights = rewards, weights

    def score(self, responses: Sequence[Response]) -> list[Score]:
        return without_loop(self.score_async(responses))

    async def score_async(self, responses: Sequence[Response]) -> list[Score]:
        """Scores responses as `score` does, by one reward after the other; while one waits, other groups are scored."""
        combined = []
        columns = [await scores_by(reward, responses) for reward in self.rewards.values()]
        for scores in zip(*columns, strict=True):
            parts = {name: score.reward for name, score in zip(self.rewards, scores, strict=True)}
            total = sum(self.weights[name] * value for name, value in parts.items())
            combined.append(Score(total, scores[0].correct, scores[0].answer, parts))
        return combined

    @property
    def label(self) -> str:
        parts = ", ".join(f"{self.weights[name]:g} {reward.label}" for name, reward in self.rewards.items())
        return f"{super().label} ({parts})"

    def same(self, answers: Sequence[tuple[str, str]]) -> list[bool]:
        return self.rewards[next(iter(self.rewards))].same(answers)

    def figures(self) -> dict[str, float]:
        """Counts of all rewards; those that several rewards count under one name are named `NAME_COUNT` for each."""
        counts = {name: reward.figures() for name, reward in self.rewards.items()}
        shared = Counter(key for each in counts.values() for key in each)
        return {
            key if shared[key] == 1 else f"{name}_{key}": value
            for name, each in counts.items()
            for key, value in each.items()
        }
