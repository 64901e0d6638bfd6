"""Sampling groups: prompts in, groups of graded responses out, split over the ranks."""

import hashlib
from collections.abc import Callable, Sequence

from rence_lightning.distributed import on_every_rank, rank_and_world
from rence_lightning.policy import Policy
from rence_lightning.prompts import Prompt
from rence_lightning.rewards import Reward
from rence_lightning.rollouts import EngineProgress, Rollout, RolloutEngine, Sampling
from rence_lightning.sampling.grading import BesideSampling
from rence_lightning.sampling.groups import Group

GroupGraded = Callable[[Group], None]
"""Called on the grading thread with each group of this rank, as soon as it is graded."""


class RolloutSampler:
    """Prompts in, groups out: the engine samples, and the reward grades what is finished beside it.

    Prompts are split over the ranks and the groups gathered on all of them, so that what follows (filtering, mastery,
    the cache) is decided alike everywhere.
    """

    def __init__(self, engine: RolloutEngine, reward: Reward, policy: Policy) -> None:
        self._engine = engine
        self._reward = reward
        self._policy = policy

    def sync(self) -> None:
        """Hands the policy's present weights to the engine: from here on they are pi_old.

        Raises:
            EngineError: On every rank, when the engine of one has failed.
        """
        on_every_rank(lambda: self._engine.sync(self._policy))

    def release(self) -> None:
        """Lets the engine give back memory: training follows."""
        self._engine.release()

    def sample(
        self,
        prompts: Sequence[Prompt],
        group_size: int,
        sampling: Sampling,
        stream: str,
        progress: EngineProgress | None = None,
        graded: GroupGraded | None = None,
    ) -> list[Group]:
        """Samples and grades `group_size` responses to each prompt.

        Args:
            prompts: In any order, the same on every rank.
            group_size: K.
            sampling: How.
            stream: Names the random stream, such as `"seed 0, iteration 3"`: a prompt answered again in the same stream
                gets the same responses.
            progress: Told of the responses finished on this rank.
            graded: Given each group of this rank before all are there, on another thread.

        Returns:
            The groups, in the order of the prompts, on every rank.

        Raises:
            EngineError: On every rank, when the engine of one has failed.
        """
        rank, world = rank_and_world()
        mine = list(prompts[rank::world])
        shares = on_every_rank(lambda: self._sample(mine, group_size, sampling, stream, progress, graded))
        return [shares[index % world][index // world] for index in range(len(prompts))]

    def _sample(
        self,
        prompts: list[Prompt],
        group_size: int,
        sampling: Sampling,
        stream: str,
        progress: EngineProgress | None,
        graded: GroupGraded | None,
    ) -> list[Group]:
        """`sample`, of this rank's own prompts."""

        def grade(finished: Sequence[tuple[Prompt, list[Rollout]]]) -> list[Group]:
            asked, answered = [prompt for prompt, _ in finished], [rollouts for _, rollouts in finished]
            groups = self._grade(asked, answered, sampling.temperature)
            for group in groups:
                group.seed = _seed(f"{stream}, objective", group.prompt.problem.id)
                if graded is not None:
                    graded(group)
            return groups

        given: set[int] = set()
        with BesideSampling(grade) as grading:

            def finished(index: int, rollouts: list[Rollout]) -> None:
                given.add(index)
                grading.add(index, (prompts[index], rollouts))

            sampled = self._engine.generate(
                [prompt.token_ids for prompt in prompts],
                group_size,
                sampling,
                [_seed(stream, prompt.problem.id) for prompt in prompts],
                progress,
                finished,
            )
            for index, rollouts in enumerate(sampled):
                if index not in given:  # an engine may hand over all at the end
                    finished(index, rollouts)
            groups = grading.results()
        return [groups[index] for index in range(len(prompts))]

    def _grade(self, prompts: Sequence[Prompt], sampled: Sequence[list[Rollout]], temperature: float) -> list[Group]:
        texts = [
            self._policy.tokenizer.batch_decode(
                [rollout.token_ids.tolist() for rollout in rollouts],
                skip_special_tokens=True,
                clean_up_tokenization_spaces=False,
            )
            for rollouts in sampled
        ]
        gold = [prompt.problem.answer for prompt, group in zip(prompts, texts, strict=True) for _ in group]
        scores = iter(self._reward.score(gold, [text for group in texts for text in group]))
        return [
            Group(prompt, rollouts, group, [next(scores) for _ in group], temperature)
            for prompt, rollouts, group in zip(prompts, sampled, texts, strict=True)
        ]


def _seed(stream: str, prompt: str) -> int:
    """A 63-bit seed: hashing makes streams and prompts independent, where sums of seeds would collide."""
    digest = hashlib.blake2b(f"{stream}\n{prompt}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
