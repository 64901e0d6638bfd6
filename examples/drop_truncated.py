"""A filter around another one; in the folder of the run, or one on `PYTHONPATH`:

--data.filter drop_truncated.DropTruncated --data.filter.filter ZeroVarianceFilter
"""

from itertools import compress

from rence_lightning.sampling import FilterDecision, GradedGroup, Outcome, PositiveRatioFilter, PromptFilter


class DropTruncated(PromptFilter):
    """Leaves responses that were cut at the limit out of training (*overlong filtering* in Yu et al. 2025).

    A truncated response is wrong for its length alone. As a negative it teaches the policy to be short; left out, it
    teaches nothing. Difficulty and mastery are still those of all K responses, so that a prompt of which two responses
    are right and six are cut is not mastered. A group is kept if the responses that ended have a contrast of their own.

    Args:
        filter: Filter that judges groups and chooses the positives (default: `PositiveRatioFilter`).
    """

    def __init__(self, filter: PromptFilter | None = None) -> None:
        self.filter = filter if filter is not None else PositiveRatioFilter()

    def judge(self, group: GradedGroup) -> FilterDecision:
        dropped = tuple(response.truncated for response in group.responses)
        kept = [not cut for cut in dropped]
        ended = GradedGroup(list(compress(group.responses, kept)), list(compress(group.scores, kept)))
        positives = iter(self.filter.judge(ended).positive if ended.size else ())
        positive = tuple(not cut and next(positives) for cut in dropped)
        outcome = self.filter.judge(group).outcome
        if outcome is Outcome.KEPT and not any(positive):
            outcome = Outcome.TOO_HARD
        if outcome is Outcome.KEPT and sum(positive) + sum(dropped) == group.size:
            outcome = Outcome.TOO_EASY
        return FilterDecision(outcome, positive, dropped)
