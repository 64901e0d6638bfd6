"""What is said of an iteration that found nothing to train on, or nothing correct."""

import logging

from rence_lightning.distributed import rank_and_world
from rence_lightning.errors import StarvationError, shortened
from rence_lightning.sampling.batch import IterationBatch
from rence_lightning.sampling.curriculum.filtering import Outcome

EXAMPLES = 3
"""Number of samples that are shown where nothing was correct."""

_log = logging.getLogger(__name__)


def is_exhausted(batch: IterationBatch, left: int, mastered: int) -> bool:
    """Whether an iteration has no group to train on and most prompts are mastered, so that the run has done its work.

    It warns where the first iteration has found no correct response, and where prompts are left at the end.

    Args:
        batch: Groups of the iteration, with everything that was sampled.
        left: Number of prompts left in the pool.
        mastered: Number of prompts that are mastered.

    Raises:
        StarvationError: The batch is empty although at least as many prompts are left as are mastered; the message
            shows counts, and samples where nothing was correct.
    """
    if not left:
        return not batch.groups
    first = rank_and_world()[0] == 0
    samples = "" if batch.sums.get("correct") else _nothing_correct(batch)
    if batch.groups and batch.iteration == 1 and first:
        if all(len({*zip(each.rewards, each.positive, strict=True)}) == 1 for each in batch.groups):
            _log.warning(
                "iteration 1: nothing to learn, because all responses to each problem have equal rewards; does the "
                "reward tell right from wrong, and are the problems neither too easy nor too hard?"
            )
        if samples:
            _log.warning("iteration 1: %s; can the policy read these problems, and the reward these answers?", samples)
    if batch.groups:
        return False
    outcomes = batch.outcomes
    counts = (
        f"iteration {batch.iteration}: none of the {batch.outcomes.total()} sampled groups can be trained on: "
        f"{outcomes[Outcome.TOO_HARD]} too hard, {outcomes[Outcome.TOO_EASY]} too easy, "
        f"{outcomes[Outcome.MASTERED]} mastered; {left} prompts are left in the pool"
    )
    if mastered > left:
        if first:
            _log.warning("%s, and %d are mastered: the run ends here", counts, mastered)
        return True
    way_out = "; to teach it solutions first: warmup, with the configuration of fit" if samples else ""
    raise StarvationError(
        f"{counts} (loosen the thresholds of data.filter, raise data.max_draws_per_iteration, or give problems that "
        f"the policy solves sometimes{way_out})" + (f"; {samples}" if samples else "")
    )


def _nothing_correct(batch: IterationBatch) -> str:
    """What is said where no response was correct, with examples."""
    highest, shown = max((reward for group in batch.sampled for reward in group.rewards), default=0.0), []
    for group in batch.sampled[:EXAMPLES]:
        problem, rollout = group.prompt.problem, group.rollouts[0]
        cut = ", cut at the limit" if rollout.finish_reason == "length" else ""
        shown.append(
            f"{shortened(problem.problem)} (answer {shortened(problem.answer)}) -> {shortened(group.responses[0])} "
            f"(reward {group.rewards[0]:g}{cut})"
        )
    partly = f" (the highest reward was {highest:g}; a FunctionReward has correct_from, from which a reward is correct)"
    return f"no response was correct{partly if highest else ''}, for example {'; '.join(shown)}"
