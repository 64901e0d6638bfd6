"""Cancelling does not prefer short responses: over 1,000 batches, the lengths that are kept are those of a run without.

A sampler that takes what finishes first goes through the same check, to see that the check would notice.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from fake_sampling import FakeEngine, K, iterations, long_if_kept, make_data

from rence_lightning.prompts import Prompt
from rence_lightning.rollouts import Request, Sampling
from rence_lightning.sampling import Group, Outcome, RolloutSampler
from rence_lightning.sampling.sampler import Draw, seed_of
from rence_lightning.sampling.scoring import responses_of, scores_of

BATCHES, WANTED, PROMPTS = 1000, 5, 500


class FirstToFinish(RolloutSampler):
    """A wrong sampler: the batch is what is kept first in time."""

    def sample(
        self,
        prompts: Sequence[Prompt],
        group_size: int,
        sampling: Sampling,
        stream: str,
        on_tokens: object = None,
        graded: Callable[[Group], None] | None = None,
        wanted: int | None = None,
    ) -> Draw:
        requests = [Request(each.token_ids, group_size, sampling, seed_of(stream, each.problem.id)) for each in prompts]
        groups: list[Group] = []
        assert graded is not None
        for step in self._engine.generate(iter(requests)):
            for finished in step.finished:
                prompt = prompts[finished.index]
                responses = responses_of(self._policy.tokenizer, prompt, finished.rollouts)
                scores, texts = scores_of(self._reward, responses), [response.text for response in responses]
                groups.append(Group(prompt, finished.rollouts, texts, scores, 1.0))
                graded(groups[-1])
                if sum(group.outcome is Outcome.KEPT for group in groups) == wanted:
                    return Draw(groups, {})
        return Draw(groups, {})


def kept_lengths(engine: FakeEngine, sampler: type[RolloutSampler] = RolloutSampler) -> "np.ndarray":
    """The lengths of all groups that 1,000 batches hold."""
    data = make_data(engine, prompts=PROMPTS, prompts_per_iteration=WANTED, prompts_per_draw=30)
    data.sampler.__class__ = sampler
    batches = iterations(data, BATCHES)
    return np.array([len(group.rollouts[0].token_ids) for batch in batches for group in batch.groups])


def largest_difference(one: "np.ndarray", other: "np.ndarray") -> float:
    """The two-sample statistic of Kolmogorov and Smirnov: the largest difference of the distribution functions."""
    at = np.arange(1, max(one.max(), other.max()) + 1)
    shares = [np.searchsorted(np.sort(each), at, side="right") / len(each) for each in (one, other)]
    return float(np.abs(shares[0] - shares[1]).max())


CRITICAL = 1.95 * (2 / (BATCHES * WANTED)) ** 0.5
"""Statistic that two samples of one distribution exceed with a probability of 0.001."""


@pytest.fixture(scope="module")
def plain() -> "np.ndarray":
    """Kept lengths where groups are sampled one after the other and nothing is cancelled."""
    return kept_lengths(FakeEngine(long_if_kept, room=1, honours=False))


def test_the_kept_lengths_are_those_of_a_run_without_cancelling(plain: "np.ndarray") -> None:
    cancelling = kept_lengths(FakeEngine(long_if_kept, room=12))
    assert np.array_equal(cancelling, plain)
    independent = np.array(
        [length for seed in range(20_000) if any((got := long_if_kept(seed))[1]) for length in got[:1]]
    )
    assert largest_difference(plain, independent) < CRITICAL, "the kept lengths are not those of the engine"


def test_taking_what_finishes_first_would_be_noticed(plain: "np.ndarray") -> None:
    first = kept_lengths(FakeEngine(long_if_kept, room=12), FirstToFinish)
    assert largest_difference(first, plain) > 5 * CRITICAL
    assert first.mean() < 0.8 * plain.mean()
    assert K == 4
