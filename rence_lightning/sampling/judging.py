"""The judgement of a graded group by the prompt filter, checked."""

from rence_lightning.errors import call_plugin, invalid_return
from rence_lightning.sampling.curriculum import Judgement, Outcome, PromptFilter
from rence_lightning.sampling.groups import Group

JUDGE = "def judge(self, group: GradedGroup) -> Judgement"
"""Definition of the method that a filter must have."""


def judge(chosen: PromptFilter, group: Group) -> None:
    """Sets the positives, the dropped responses and the outcome of a group.

    Raises:
        PartError: The filter raised an error or returned something invalid.
    """
    doing = f"judge(), problem {group.prompt.problem.id}"
    judgement = call_plugin(chosen, doing, lambda: chosen.judge(group.graded))
    if fault := _fault(judgement, group.size):
        raise invalid_return(chosen, doing, judgement, fault)
    group.positive = tuple(bool(positive) for positive in judgement.positive)
    group.dropped = tuple(bool(dropped) for dropped in judgement.dropped)
    group.outcome = Outcome(judgement.outcome)


def _fault(judgement: object, size: int) -> str:
    """What a filter should have returned for a group of `size` responses; empty if the judgement is valid."""
    if not isinstance(judgement, Judgement) or judgement.outcome not in Outcome or len(judgement.positive) != size:
        return f"a Judgement with {size} positives"
    if len(judgement.dropped) not in (0, size):
        return f"a Judgement with {size} or no values of dropped"
    if any(positive and dropped for positive, dropped in zip(judgement.positive, judgement.dropped, strict=False)):
        return "a Judgement whose positives are not dropped"
    if judgement.outcome is Outcome.KEPT and size - sum(judgement.dropped) < 2:
        return "a Judgement of a kept group that leaves at least 2 responses"
    return ""
