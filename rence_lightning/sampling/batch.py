"""The batch of an iteration: the groups it trains on, and what was sampled to get them."""

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

from rence_lightning.sampling.curriculum.filtering import Outcome
from rence_lightning.sampling.groups import Group
from rence_lightning.sampling.scoring import REPLACEMENT


@dataclass
class IterationBatch:
    """The groups that one iteration trains on, and everything that was sampled to obtain them.

    Attributes:
        iteration: Number of the iteration, counted from 1.
        prompts_per_update: Number of groups in one optimizer step, the mini-batch.
        wanted: Number of groups that the iteration aims at, B.
        groups: Groups that were kept, at most B.
        sampled: All groups that were sampled up to the last one that was kept, in the order in which they were drawn;
            empty after `on_rollouts_end`, because they can take gigabytes.
        outcomes: Number of sampled groups that were kept, too easy, too hard or mastered.
        responses: Number of responses in these groups.
        sums: Sums over these responses, by the name of their mean in the log.
        responses_total: Number of responses sampled in training since the start of the run, including this iteration.
        draws: Number of draws.
        figures: Further figures for the iteration's row in the log, such as those that callbacks return; in a batch
            that was restored from a checkpoint, all figures.
        updates_done: Figures of the updates that were taken on this batch.
    """

    iteration: int
    prompts_per_update: int
    wanted: int
    groups: list[Group] = field(default_factory=list)
    sampled: list[Group] = field(default_factory=list)
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    responses: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    responses_total: int = 0
    draws: int = 0
    figures: dict[str, float] = field(default_factory=dict)
    updates_done: list[dict[str, float]] = field(default_factory=list)

    def add(self, group: Group) -> None:
        """Adds a group that was sampled and judged."""
        assert group.outcome is not None
        self.sampled.append(group)
        if group.outcome is Outcome.KEPT:
            self.groups.append(group)
        self.outcomes[group.outcome] += 1
        self.responses += group.size
        for rollout, text, score in zip(group.rollouts, group.responses, group.scores, strict=True):
            figures = {
                "reward": score.reward,
                **{f"reward_{part}": value for part, value in score.parts.items()},
                "correct": score.correct,
                "answered": score.answer is not None,
                "truncated": rollout.finish_reason == "length",
                "length": rollout.chosen_tokens,
                **({"undecodable": True} if REPLACEMENT in text else {}),
            }
            if rollout.replies:
                written = len(rollout.token_ids) - rollout.chosen_tokens
                figures |= {"replied": True, "replies": len(rollout.replies), "reply_tokens": written}
            for name, value in figures.items():
                self.sums[name] = self.sums.get(name, 0.0) + value

    def add_draw(self, costs: dict[str, float]) -> None:
        """Counts a draw and its costs."""
        self.draws += 1
        self.figures |= {name: self.figures.get(name, 0.0) + cost for name, cost in costs.items()}

    def begin_updates(self) -> None:
        """Frees what the updates do not need: groups that are not trained on, and responses that are left out."""
        self.sampled.clear()
        for group in self.groups:
            group.leave_out_dropped()

    @property
    def missing(self) -> int:
        """Number of groups that are still needed."""
        return self.wanted - len(self.groups)

    @property
    def updates(self) -> list[list[Group]]:
        """The groups of each update. A batch of fewer than B groups is split as evenly as possible, because the
        optimizer takes a step of the same length on five groups as on thirty-two."""
        count = -(-len(self.groups) // self.prompts_per_update)
        bounds = [len(self.groups) * i // count for i in range(count + 1)] if count else [0]
        return [self.groups[start:end] for start, end in pairwise(bounds)]

    def metrics(self) -> dict[str, float]:
        """Means over the responses that were sampled, before filtering, shares of their groups, and further figures."""
        if not (sampled := self.outcomes.total()):
            return dict(self.figures)
        return {
            **{name: total / self.responses for name, total in self.sums.items()},
            "tokens": self.sums["length"],
            "groups_sampled": float(sampled),
            **{f"share_{outcome}": self.outcomes[outcome] / sampled for outcome in Outcome},
            "responses_total": float(self.responses_total),
            "groups_trained": float(len(self.groups)),
            **self.figures,
        }
