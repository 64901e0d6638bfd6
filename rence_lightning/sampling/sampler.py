"""Sampling groups: prompts in, groups of graded responses out, split over the ranks."""

import hashlib
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotDone
from dataclasses import dataclass, field, replace

from rence_lightning.distributed import collectives, gather, rank_and_world
from rence_lightning.errors import calling, returned
from rence_lightning.policy import Policy
from rence_lightning.prompts import Prompt
from rence_lightning.rewards import Reward, Score
from rence_lightning.rollouts import EngineProgress, Rollout, RolloutEngine, Sampling
from rence_lightning.sampling.groups import Group

GroupGraded = Callable[[Group], None]
"""Called on the grading thread with each group of this rank, as soon as it is graded."""

GRADING_POLL_SECONDS = 0.2
"""Time between two checks for an interruption while the sampler waits for grading."""


class RolloutSampler:
    """Samples groups: the engine samples, while a background thread grades the groups that are finished.

    Prompts are split over the ranks and the groups are gathered on all of them, so that every rank makes the same
    decisions afterwards (filtering, mastery, the cache).
    """

    def __init__(self, engine: RolloutEngine, reward: Reward, policy: Policy) -> None:
        self._engine = engine
        self._reward = reward
        self._policy = policy

    def sync(self) -> None:
        """Gives the policy's current weights to the engine: from here on they are pi_old."""
        with collectives():  # a sharded policy is gathered
            calling(self._engine, "sync()", lambda: self._engine.sync(self._policy))
        gather(None)  # where the engine of a rank has failed, all ranks end here, before any of them samples

    def release(self) -> None:
        """Lets the engine free its memory, because training follows."""
        calling(self._engine, "release()", self._engine.release)

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
            prompts: Prompts in any order, the same on every rank.
            group_size: Number of responses per prompt, K.
            sampling: Temperature, top-p and length limit.
            stream: Name of the random stream, such as `"seed 0, iteration 3"`: a prompt that is sampled again in the
                same stream gets the same responses.
            progress: Function that is called with the numbers of responses and tokens sampled on this rank.
            graded: Function that is called, on the grading thread, with each group of this rank as soon as it is
                graded.

        Returns:
            The groups, in the order of the prompts, on every rank.

        Raises:
            PartError: The engine or the reward raised an error, or returned something invalid.
        """
        rank, world = rank_and_world()
        mine = list(prompts[rank::world])
        shares = gather(self._sample(mine, group_size, sampling, stream, progress, graded))
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
        """Like `sample`, for the prompts of this rank only."""

        def grade(prompt: Prompt, rollouts: list[Rollout]) -> Group:
            seed = _seed(f"{stream}, objective", prompt.problem.id)
            texts = self._texts(rollouts)
            scores = self._scores(prompt, texts)
            group = Group(prompt, rollouts, texts, scores, sampling.temperature, seed)
            if graded is not None:
                graded(group)
            return group

        grading = _Grading(grade, progress)

        def finished(index: int, rollouts: list[Rollout]) -> None:
            _check_rollouts(self._engine, prompts[index], rollouts, group_size)
            grading.add(index, prompts[index], rollouts)

        def generate() -> list[list[Rollout]]:
            return self._engine.generate(
                [prompt.token_ids for prompt in prompts],
                group_size,
                sampling,
                [_seed(stream, prompt.problem.id) for prompt in prompts],
                grading.progress,
                finished,
            )

        try:
            sampled = calling(self._engine, "generate()", generate)
            if not isinstance(sampled, list) or len(sampled) != len(prompts):
                raise returned(self._engine, "generate()", sampled, f"a list of {len(prompts)} groups of rollouts")
            for index, rollouts in enumerate(sampled):
                if index not in grading.futures:  # an engine may return all groups at the end
                    finished(index, rollouts)
            return grading.groups()
        finally:
            grading.end()

    def _texts(self, rollouts: list[Rollout]) -> list[str]:
        return self._policy.tokenizer.batch_decode(
            [rollout.token_ids.tolist() for rollout in rollouts],
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )

    def _scores(self, prompt: Prompt, texts: list[str]) -> list[Score]:
        """The scores of a group; where the reward returns something invalid, the error names the reward."""
        doing = f"score(), problem {prompt.problem.id}"
        gold = [prompt.problem.answer] * len(texts)
        scores = calling(self._reward, doing, lambda: self._reward.score(gold, texts))
        whole = isinstance(scores, Sequence) and len(scores) == len(texts)
        if not whole or not all(isinstance(score, Score) for score in scores):
            raise returned(self._reward, doing, scores, f"a list of {len(texts)} Score, one per response")
        for score in scores:
            if not _is_finite(score.reward):
                raise returned(self._reward, doing, score.reward, "a finite reward")
        return [replace(score, reward=float(score.reward), correct=bool(score.correct)) for score in scores]


@dataclass
class _Grading:
    """The groups of one draw that are graded on a background thread while the engine samples others."""

    grade: Callable[[Prompt, list[Rollout]], Group]
    listener: EngineProgress | None
    futures: dict[int, "Future[Group]"] = field(default_factory=dict)
    errors: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="grading")

    def add(self, index: int, prompt: Prompt, rollouts: list[Rollout]) -> None:
        future = self._executor.submit(self.grade, prompt, rollouts)
        future.add_done_callback(self._note)
        self.futures[index] = future

    def _note(self, future: "Future[Group]") -> None:
        if not future.cancelled() and (error := future.exception()) is not None:
            self.errors.append(error)

    def progress(self, responses: int, tokens: int) -> None:
        """Passes the engine's progress on; where grading has failed, raises its error, which ends sampling."""
        if self.errors:
            raise self.errors[0]
        if self.listener is not None:
            self.listener(responses, tokens)

    def groups(self) -> list[Group]:
        """Waits for all groups; returns them in the order of their prompts."""
        return [self._wait_for(self.futures[index]) for index in sorted(self.futures)]

    def _wait_for(self, future: "Future[Group]") -> Group:
        while True:
            try:
                return future.result(GRADING_POLL_SECONDS)
            except NotDone:
                if future.done():  # the reward itself raised a TimeoutError
                    raise
                self.progress(0, 0)

    def end(self) -> None:
        """Cancels the grading of groups that it has not started on; a group being graded cannot be interrupted."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def _check_rollouts(engine: RolloutEngine, prompt: Prompt, rollouts: list[Rollout], group_size: int) -> None:
    doing = f"generate(), problem {prompt.problem.id}"
    if not isinstance(rollouts, list) or len(rollouts) != group_size:
        raise returned(engine, doing, rollouts, f"a list of {group_size} rollouts, one per response")
    for rollout in rollouts:
        if not isinstance(rollout, Rollout) or not 0 < len(rollout.token_ids) == len(rollout.log_probs):
            raise returned(engine, doing, rollout, "a Rollout with at least one token and a log-probability for each")


def _is_finite(reward: object) -> bool:
    try:
        return math.isfinite(reward)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


def _seed(stream: str, prompt: str) -> int:
    """A 63-bit seed: hashing makes streams and prompts independent, whereas sums of seeds would collide."""
    digest = hashlib.blake2b(f"{stream}\n{prompt}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
