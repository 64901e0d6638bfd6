"""Grading: from token ids to scores, on a background thread while the engine samples."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from queue import Empty, SimpleQueue

from transformers import PreTrainedTokenizerBase

from rence_lightning.errors import call_plugin, invalid_return
from rence_lightning.prompts import Prompt
from rence_lightning.rewards import Response, Reward, Score
from rence_lightning.rollouts import Rollout
from rence_lightning.sampling.groups import Group


class Grading:
    """Grades groups one after another on a background thread.

    Args:
        grade: Function that grades the group at a position of the draw, called on the background thread.
    """

    def __init__(self, grade: Callable[[int, list[Rollout]], Group]) -> None:
        self._grade = grade
        self._done: SimpleQueue[tuple[int, Future[Group]]] = SimpleQueue()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="grading")

    def add(self, position: int, rollouts: list[Rollout]) -> None:
        """Has a group graded once those before it are."""
        future = self._executor.submit(self._grade, position, rollouts)
        future.add_done_callback(lambda done: self._done.put((position, done)))

    def graded(self, seconds: float = 0.0) -> list[tuple[int, Group]]:
        """The groups that were graded since the last call, with their positions; waits up to `seconds` for the first.

        Raises:
            BaseException: What grading has raised.
        """
        groups = []
        try:
            position, future = self._done.get(seconds > 0, seconds)
            while True:
                groups.append((position, future.result()))
                position, future = self._done.get(block=False)
        except Empty:
            return groups

    def end(self) -> None:
        """Drops the groups that are not graded yet; one that is being graded cannot be interrupted."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def responses_of(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, rollouts: Sequence[Rollout]) -> list[Response]:
    """The responses to a prompt as rewards and filters see them; their texts have no special tokens."""
    texts = tokenizer.batch_decode(
        [rollout.token_ids.tolist() for rollout in rollouts],
        skip_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )
    return [
        Response(prompt.problem, text, rollout.token_ids, rollout.finish_reason)
        for text, rollout in zip(texts, rollouts, strict=True)
    ]


def scores_of(reward: Reward, responses: list[Response]) -> list[Score]:
    """The scores of the responses to one problem.

    Raises:
        PartError: The reward raised an error or returned something invalid.
    """
    doing = f"score(), problem {responses[0].problem.id}"
    scores = call_plugin(reward, doing, lambda: reward.score(responses))
    whole = isinstance(scores, Sequence) and len(scores) == len(responses)
    if not whole or not all(isinstance(score, Score) for score in scores):
        raise invalid_return(reward, doing, scores, f"a list of {len(responses)} Score, one per response")
    for score in scores:
        if not _is_share(score.reward):
            raise invalid_return(reward, doing, score.reward, "a reward from 0 to 1")
        if not isinstance(score.answer, str | None):
            raise invalid_return(reward, doing, score.answer, "an answer that is text, or None")
        if not all(_is_finite(part) for part in score.parts.values()):
            raise invalid_return(reward, doing, score.parts, "parts that are finite numbers")
    return [
        replace(
            score,
            reward=float(score.reward),
            correct=bool(score.correct),
            parts={name: float(part) for name, part in score.parts.items()},
        )
        for score in scores
    ]


def _is_share(reward: object) -> bool:
    return _is_finite(reward) and 0 <= float(reward) <= 1  # type: ignore[arg-type]


def _is_finite(value: object) -> bool:
    try:
        return not isinstance(value, str) and math.isfinite(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
