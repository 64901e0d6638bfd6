"""Sampling groups: prompts in, groups of graded responses out, split over the ranks."""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from rence_lightning.distributed import collectives, gather, rank_and_world
from rence_lightning.errors import call_plugin
from rence_lightning.policy import Policy
from rence_lightning.prompts import Prompt
from rence_lightning.rewards import Response, Reward
from rence_lightning.rollouts import Request, Rollout, RolloutEngine, Sampling
from rence_lightning.sampling.cutoff import Cutoff
from rence_lightning.sampling.dialogue import Dialogues
from rence_lightning.sampling.grading import GradingThread
from rence_lightning.sampling.groups import Group
from rence_lightning.sampling.local_draw import LocalDraw, OnTokens
from rence_lightning.sampling.scoring import responses_of, scores_of


class Draw(NamedTuple):
    """The groups of the first of the prompts that were drawn, in their order, and figures of the draw over all ranks,
    which depend on timing: `tail_seconds` (mean of `LocalDraw.tail_seconds`), `wait_seconds` (mean time that a finished
    rank waited for the others) and `responses_discarded` (responses that were begun and do not count)."""

    groups: list[Group]
    costs: dict[str, float]


class RolloutSampler:
    """Samples groups: the engine samples, while a background thread grades the groups that are finished.

    Prompts are split over the ranks and the groups are gathered on all of them, so that every rank makes the same
    decisions afterwards (mastery, the cache).
    """

    def __init__(
        self, engine: RolloutEngine, reward: Reward, policy: Policy, dialogues: Dialogues | None = None
    ) -> None:
        self._engine, self._dialogues = engine, dialogues
        self._reward = reward
        self._policy = policy
        self._draws = 0
        self._grading: GradingThread | None = None

    def close(self) -> None:
        """Ends the grading thread, which starts again when it is needed."""
        if self._grading is not None:
            self._grading.close()
            self._grading = None

    def check(self) -> None:
        """Lets the engine refuse the policy, if it has a method for it."""
        if (check := getattr(self._engine, "check", None)) is not None:
            self.sync()
            call_plugin(self._engine, "check()", check)
            self.release()

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
        stream: Callable[[Prompt], str],
        on_tokens: OnTokens | None = None,
        graded: Callable[[Group, list[Response]], None] | None = None,
        wanted: int | None = None,
    ) -> Draw:
        """Samples and grades `group_size` responses to each prompt, until `wanted` groups are kept.

        Args:
            prompts: Prompts in the order of the draw, the same on every rank.
            group_size: Number of responses per prompt, K.
            sampling: Temperature, top-p and length limit.
            stream: Function that names the random stream of a prompt, such as `"seed 0, iteration 3"`: a prompt that is
                sampled again in the same stream gets the same responses.
            on_tokens: Function that is called with the numbers of responses and tokens sampled on this rank.
            graded: Function that is called, on the grading thread, with each group of this rank and its responses as
                soon as it is graded; where `wanted` is given, it sets the group's outcome.
            wanted: Number of kept groups after which no further group is needed, in the order of the prompts; None
                samples all prompts.

        Returns:
            The groups of all prompts, or of those up to the one whose group is the last that is needed; on every rank,
            and the same for any order in which the engine finishes them.

        Raises:
            PartError: The engine, the reward or `graded` raised an error, or returned something invalid.
        """

        async def grade(prompt: Prompt, rollouts: list[Rollout]) -> Group:
            responses = responses_of(self._policy.tokenizer, prompt, rollouts)
            scores, texts = await scores_of(self._reward, responses), [each.transcript for each in responses]
            seed = seed_of(f"{stream(prompt)}, objective", prompt.problem.id)
            group = Group(prompt, rollouts, texts, scores, sampling.temperature, seed)
            if graded is not None:
                graded(group, responses)
            return group

        rank, world = rank_and_world()
        mine = {position: prompts[position] for position in range(rank, len(prompts), world)}
        self._grading = self._grading or GradingThread()
        self._draws += 1
        cutoff = Cutoff(len(prompts), wanted, topic=f"draw {self._draws}")
        vocabulary = self._policy.model.config.get_text_config().vocab_size
        progress = on_tokens or (lambda responses, tokens: None)
        requests = [
            self._request(prompt, group_size, sampling, seed_of(stream(prompt), prompt.problem.id), self._grading)
            for prompt in mine.values()
        ]
        local = LocalDraw(self._engine, mine, requests, cutoff, grade, self._grading, progress, vocabulary)
        local.sample()
        return _gathered(local, cutoff, prompts, group_size)

    def _request(self, prompt: Prompt, size: int, sampling: Sampling, seed: int, thread: GradingThread) -> Request:
        if (dialogues := self._dialogues) is None:
            return Request(prompt.token_ids, size, sampling, seed)
        replies = dialogues.to(prompt, lambda response: seed_of(f"{seed}, environment", str(response)), thread)
        return Request(prompt.token_ids, size, sampling, seed, dialogues.stop_ids, replies)


def _gathered(local: LocalDraw, cutoff: Cutoff, prompts: Sequence[Prompt], group_size: int) -> Draw:
    """The groups of all ranks up to the final cutoff, on every rank.

    Prompts are not sent: all ranks have them, and their rows may be large, or hold what no other process can read.
    """
    begun = time.perf_counter()
    cutoff.settle()
    waited = time.perf_counter() - begun
    own = local.groups()
    without = {position: replace(group, prompt=None) for position, group in own.items()}  # type: ignore[arg-type]
    shares = gather((without, local.tail_seconds, waited, local.responses_begun - len(own) * group_size))
    groups = {position: group for share, *_ in shares for position, group in share.items()}
    for position, group in groups.items():
        group.prompt = prompts[position]
    costs = {
        "tail_seconds": sum(tail for _, tail, _, _ in shares) / len(shares),
        "wait_seconds": sum(wait for _, _, wait, _ in shares) / len(shares),
        "responses_discarded": float(sum(discarded for *_, discarded in shares)),
    }
    return Draw([groups[position] for position in range(len(groups))], costs)


def seed_of(stream: str, prompt: str) -> int:
    """A 63-bit seed: hashing makes streams and prompts independent, whereas sums of seeds would collide."""
    digest = hashlib.blake2b(f"{stream}\n{prompt}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
