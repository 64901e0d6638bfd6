"""Several rewards in one: their weighted sum."""

from collections import Counter
from collections.abc import Sequence

from rence_lightning.errors import UserError
from rence_lightning.rewards.base import Reward, Score


class CombinedReward(Reward):
    """The weighted sum of several rewards. The first one decides what is correct, and what the answer is.

    Filters and metrics look at correctness alone, so that a shaped reward changes what the objective sees, and never
    which groups are trained on.

    Args:
        rewards: Rewards by name; the value of each is logged as `reward_NAME`.
        weights: Weights by the same names.

    Raises:
        UserError: If there is no reward, or a reward has no weight.
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
        """Counts of all rewards; those that several rewards count under one name are named `NAME_COUNT` for each."""
        counts = {name: reward.figures() for name, reward in self.rewards.items()}
        shared = Counter(key for each in counts.values() for key in each)
        return {
            key if shared[key] == 1 else f"{name}_{key}": value
            for name, each in counts.items()
            for key, value in each.items()
        }
