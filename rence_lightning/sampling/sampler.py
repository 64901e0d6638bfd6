"""Sampling groups: prompts in, groups of graded responses out, split over the ranks."""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rence_lightning.distributed import collectives, gather, rank_and_world
from rence_lightning.errors import call_plugin
from rence_lightning.policy import Policy
from rence_lightning.prompts import Prompt
from rence_lightning.rewards import Reward
from rence_lightning.rollouts import Request, Rollout, RolloutEngine, Sampling
from rence_lightning.sampling.grading import Grading, responses_of, scores_of
from rence_lightning.sampling.groups import Group
from rence_lightning.sampling.horizon import Horizon
from rence_lightning.sampling.share import DrawShare, Progress
from rence_lightning.sampling.tail import TailCosts

GroupGraded = Callable[[Group], None]
"""Called on the grading thread with each group of this rank, as soon as it is graded."""


@dataclass(frozen=True)
class Draw:
    """The groups that were sampled from a sequence of prompts.

    Attributes:
        groups: Groups of the first prompts, in their order; those of the other prompts are not needed.
        costs: Costs of the draw's tail, over all ranks.
    """

    groups: list[Group]
    costs: TailCosts


class RolloutSampler:
    """Samples groups: the engine samples, while a background thread grades the groups that are finished.

    Prompts are split over the ranks and the groups are gathered on all of them, so that every rank makes the same
    decisions afterwards (mastery, the cache).
    """

    def __init__(self, engine: RolloutEngine, reward: Reward, policy: Policy) -> None:
        self._engine = engine
        self._reward = reward
        self._policy = policy
        self._draws = 0

    def sync(self) -> None:
        """Gives the policy's current weights to the engine: from here on they are pi_old."""
        with collectives():  # a sharded policy is gathered
            call_plugin(self._engine, "sync()", lambda: self._engine.sync(self._policy))
        gather(None)  # where the engine of a rank has failed, all ranks end here, before any of them samples

    def release(self) -> None:
        """Lets the engine free its memory, because training follows."""
        call_plugin(self._engine, "release()", self._engine.release)

    def sample(
        self,
        prompts: Sequence[Prompt],
        group_size: int,
        sampling: Sampling,
        stream: str,
        progress: Progress | None = None,
        graded: GroupGraded | None = None,
        wanted: int | None = None,
    ) -> Draw:
        """Samples and grades `group_size` responses to each prompt, until `wanted` groups are kept.

        Args:
            prompts: Prompts in the order of the draw, the same on every rank.
            group_size: Number of responses per prompt, K.
            sampling: Temperature, top-p and length limit.
            stream: Name of the random stream, such as `"seed 0, iteration 3"`: a prompt that is sampled again in the
                same stream gets the same responses.
            progress: Function that is called with the numbers of responses and tokens sampled on this rank.
            graded: Function that is called, on the grading thread, with each group of this rank as soon as it is
                graded; where `wanted` is given, it sets the group's outcome.
            wanted: Number of kept groups after which no further group is needed, in the order of the prompts; None
                samples all prompts.

        Returns:
            The groups of all prompts, or of those up to the one whose group is the last that is needed; on every rank,
            and the same for any order in which the engine finishes them.

        Raises:
            PartError: The engine, the reward or `graded` raised an error, or returned something invalid.
        """
        rank, world = rank_and_world()
        mine = {position: prompts[position] for position in range(rank, len(prompts), world)}
        requests = [
            Request(prompt.token_ids, group_size, sampling, seed_of(stream, prompt.problem.id))
            for prompt in mine.values()
        ]

        def grade(position: int, rollouts: list[Rollout]) -> Group:
            group = self._graded(mine[position], rollouts, sampling.temperature, stream)
            if graded is not None:
                graded(group)
            return group

        self._draws += 1
        horizon = Horizon(len(prompts), wanted, topic=f"draw {self._draws}")
        grading = Grading(grade)
        share = DrawShare(self._engine, mine, requests, horizon, grading, progress or _silent)
        try:
            share.sample()
        finally:
            grading.end()
        return _gathered(share, horizon, prompts, group_size)

    def _graded(self, prompt: Prompt, rollouts: list[Rollout], temperature: float, stream: str) -> Group:
        """The group of a prompt's responses, with their texts and scores."""
        responses = responses_of(self._policy.tokenizer, prompt, rollouts)
        scores = scores_of(self._reward, responses)
        texts = [response.text for response in responses]
        return Group(prompt, rollouts, texts, scores, temperature, seed_of(f"{stream}, objective", prompt.problem.id))


def _gathered(share: DrawShare, horizon: Horizon, prompts: Sequence[Prompt], group_size: int) -> Draw:
    """The groups of all ranks up to the final horizon, on every rank.

    Prompts are not sent: all ranks have them, and their rows may be large, or hold what no other process can read.
    """
    begun = time.perf_counter()
    horizon.settle()
    waited = time.perf_counter() - begun
    own = share.groups()
    without = {position: replace(group, prompt=None) for position, group in own.items()}  # type: ignore[arg-type]
    groups = {position: group for groups in gather(without) for position, group in groups.items()}
    for position, group in groups.items():
        group.prompt = prompts[position]
    discarded = share.responses_begun - len(own) * group_size
    costs = TailCosts(share.clock.seconds, waited, discarded).over_ranks()
    return Draw([groups[position] for position in range(len(groups))], costs)


def _silent(responses: int, tokens: int) -> None:
    """Ignores progress."""


def seed_of(stream: str, prompt: str) -> int:
    """A 63-bit seed: hashing makes streams and prompts independent, whereas sums of seeds would collide."""
    digest = hashlib.blake2b(f"{stream}\n{prompt}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
