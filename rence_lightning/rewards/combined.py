"""Several rewards in one: their weighted sum."""

from collections.abc import Sequence

from rence_lightning.errors import UserError
from rence_lightning.rewards.base import Reward, Score


class CombinedReward(Reward):
    """The weighted sum of several rewards. The first decides what is correct, and what the answer is.

    Filters and metrics look at correctness alone, so that a shaped reward changes what the objective sees, and never
    which groups are trained on.

    Args:
        rewards: By name; each one's value is logged as `reward_NAME`.
        weights: By the same names.

    Raises:
        UserError: There is no reward, or one has no weight.
    """

    def __init__(self, rewards: dict[str, Reward], weights: dict[str, float]) -> None:
        if not rewards or rewards.keys() != weights.keys():
            raise UserError(
                f"reward: rewards are {', '.join(rewards) or 'none'} and weights {', '.join(weights) or 'none'}; give "
                "at least one reward, and a weight for each"
            )
        self.rewards = rewards
        self.weights = weights

    def score(self, gold: Sequence[str], responses: Sequence[str]) -> list[Score]:
        scores = {name: reward.score(gold, responses) for name, reward in self.rewards.items()}
        judged = scores[next(iter(self.rewards))]
        combined = []
        for index, first in enumerate(judged):
            parts = {name: each[index].reward for name, each in scores.items()}
            total = sum(self.weights[name] * value for name, value in parts.items())
            combined.append(Score(total, first.correct, first.answer, parts))
        return combined

    def same(self, answers: Sequence[tuple[str, str]]) -> list[bool]:
        return self.rewards[next(iter(self.rewards))].same(answers)

    def figures(self) -> dict[str, float]:
        return {name: value for reward in self.rewards.values() for name, value in reward.figures().items()}
