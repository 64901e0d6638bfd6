"""What is said of an iteration that found nothing to train on, or nothing correct."""

import logging

from rence_lightning.distributed import rank_and_world
from rence_lightning.errors import StarvationError
from rence_lightning.sampling.batch import IterationBatch
from rence_lightning.sampling.curriculum import Outcome
from rence_lightning.text import shortened

EXAMPLES = 3
"""Number of samples that are shown where nothing was correct."""

_log = logging.getLogger(__name__)


def check_starved(batch: IterationBatch, left: int) -> None:
    """Ends the run where an iteration has no group to train on, unless every prompt is mastered; warns where the first
    iteration has found no correct response.

    Args:
        batch: Groups of the iteration, with everything that was sampled.
        left: Number of prompts left in the pool.

    Raises:
        StarvationError: The batch is empty although prompts are left; the message shows counts, and samples where
            nothing was correct.
    """
    if not left:
        return
    samples = "" if batch.totals.correct else f"no response was correct, for example {_examples(batch)}"
    if batch.groups:
        if samples and batch.iteration == 1 and rank_and_world()[0] == 0:
            _log.warning("iteration 1: %s; can the policy read these problems, and the reward these answers?", samples)
        return
    outcomes = batch.outcomes
    raise StarvationError(
        f"iteration {batch.iteration}: none of the {batch.totals.groups} sampled groups can be trained on: "
        f"{outcomes[Outcome.TOO_HARD]} too hard, {outcomes[Outcome.TOO_EASY]} too easy, "
        f"{outcomes[Outcome.MASTERED]} mastered; {left} prompts are left in the pool "
        "(loosen the thresholds of data.filter, raise data.max_draws_per_iteration, or give problems that the "
        "policy solves sometimes)" + (f"; {samples}" if samples else "")
    )


def _examples(batch: IterationBatch) -> str:
    """A few problems of an iteration with their answers, and a response to each."""
    shown = []
    for group in batch.sampled[:EXAMPLES]:
        problem, rollout = group.prompt.problem, group.rollouts[0]
        cut = ", cut at the limit" if rollout.finish_reason == "length" else ""
        shown.append(
            f"{shortened(problem.problem)} (answer {shortened(problem.answer)}) -> {shortened(group.responses[0])} "
            f"(reward {group.rewards[0]:g}{cut})"
        )
    return "; ".join(shown)
