"""The batch of an iteration: the groups it trains on, and what was sampled to get them."""

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

from rence_lightning.sampling.curriculum import Outcome
from rence_lightning.sampling.groups import Group


@dataclass
class IterationBatch:
    """The groups that one iteration trains on, and everything that was sampled to obtain them.

    Attributes:
        iteration: Number of the iteration, counted from 1.
        prompts_per_update: Number of groups in one optimizer step, the mini-batch.
        wanted: Number of groups that the iteration aims at, B.
        groups: Groups that were kept, at most B.
        sampled: All groups that were sampled, with their outcomes.
        responses_total: Number of responses sampled in training since the start of the run, including this iteration.
        figures: Further figures for the iteration's row in the log, from the skipping of prompts and from callbacks;
            in a batch that was restored from a checkpoint, all figures.
        updates_done: Figures of the updates that were taken on this batch.
    """

    iteration: int
    prompts_per_update: int
    wanted: int
    groups: list[Group] = field(default_factory=list)
    sampled: list[Group] = field(default_factory=list)
    responses_total: int = 0
    figures: dict[str, float] = field(default_factory=dict)
    updates_done: list[dict[str, float]] = field(default_factory=list)

    @property
    def updates(self) -> list[list[Group]]:
        """The groups of each update. A batch of fewer than B groups is split as evenly as possible, because the
        optimizer takes a step of the same length on five groups as on thirty-two."""
        count = -(-len(self.groups) // self.prompts_per_update)
        bounds = [len(self.groups) * i // count for i in range(count + 1)] if count else [0]
        return [self.groups[start:end] for start, end in pairwise(bounds)]

    @property
    def outcomes(self) -> Counter[Outcome]:
        """Number of groups that were kept, cached, too easy, too hard or mastered."""
        return Counter(group.outcome for group in self.sampled if group.outcome is not None)

    def metrics(self) -> dict[str, float]:
        """Means over everything that was sampled, before filtering, and further figures."""
        if not self.sampled:
            return dict(self.figures)
        scores = [score for group in self.sampled for score in group.scores]
        rollouts = [rollout for group in self.sampled for rollout in group.rollouts]
        outcomes = self.outcomes
        return {
            "reward": sum(score.reward for score in scores) / len(scores),
            **{f"reward_{part}": sum(score.parts[part] for score in scores) / len(scores) for part in scores[0].parts},
            "correct": sum(score.correct for score in scores) / len(scores),
            "boxed": sum(score.answer is not None for score in scores) / len(scores),
            "truncated": sum(rollout.finish_reason == "length" for rollout in rollouts) / len(rollouts),
            "length": sum(len(rollout.token_ids) for rollout in rollouts) / len(rollouts),
            "tokens": float(sum(len(rollout.token_ids) for rollout in rollouts)),
            "responses_total": float(self.responses_total),
            "groups_sampled": float(len(self.sampled)),
            "groups_trained": float(len(self.groups)),
            **{f"share_{outcome}": outcomes[outcome] / len(self.sampled) for outcome in Outcome},
            **self.figures,
        }
