"""The part of a draw that one rank samples and grades: requests to the engine, and the groups that come of them."""

import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from rence_lightning.errors import call_plugin, invalid_return
from rence_lightning.prompts import Prompt
from rence_lightning.rollouts import FinishedGroup, Request, Rollout, RolloutEngine, SamplingStep, turns
from rence_lightning.sampling.curriculum.filtering import Outcome
from rence_lightning.sampling.cutoff import Cutoff
from rence_lightning.sampling.grading import GradingThread
from rence_lightning.sampling.groups import Group

OnTokens = Callable[[int, int], None]
"""Called with the numbers of responses finished and tokens sampled on this rank since the last call. What it raises
ends sampling."""

POSITIVE = 1e-3
"""Largest log-probability that rounding may give to a certain token."""

POLL_SECONDS = 0.2
"""Time between two calls of `OnTokens`, which may interrupt, while the rank waits for grading."""


class LocalDraw:
    """Samples the groups at some positions of a draw, as far as they can still count, and grades them meanwhile.

    Args:
        engine: Engine that samples.
        prompts: Prompts by position in the draw, ascending.
        requests: Request of each prompt, in the same order and all with the same group size.
        cutoff: Last position that can count; it moves as groups are kept.
        grade: Function that makes a group of a prompt and its rollouts.
        grading: Thread on which it runs; where it waits, other groups are graded.
        on_tokens: Function that is told of progress.
        vocabulary: Number of token ids that the policy has.

    Attributes:
        responses_begun: Number of responses that the engine has begun to sample.
        tail_seconds: Time of the engine that was lost because fewer responses were sampled at a time than it has room
            for: the integral of 1 - running / peak from its last request to the end of the draw.
    """

    def __init__(
        self,
        engine: RolloutEngine,
        prompts: dict[int, Prompt],
        requests: Sequence[Request],
        cutoff: Cutoff,
        grade: Callable[[Prompt, list[Rollout]], Coroutine[Any, Any, Group]],
        grading: GradingThread,
        on_tokens: OnTokens,
        vocabulary: int,
    ) -> None:
        self._engine = engine
        self._prompts = prompts
        self._positions = list(prompts)
        self._requests = requests
        self._cutoff = cutoff
        self._grade, self._grading = grade, grading
        self._on_tokens, self._vocabulary = on_tokens, vocabulary
        self._group_size = requests[0].group_size if requests else 0
        self.responses_begun = self._taken = 0  # number of requests that the engine has taken
        self._open: set[int] = set()  # numbers of those that are not finished
        self._ended = 0  # number of responses that have ended
        self._ungraded: dict[int, Future[Group]] = {}  # by the positions of finished groups
        self._newly_graded: SimpleQueue[tuple[int, Future[Group]]] = SimpleQueue()
        self._groups: dict[int, Group] = {}  # graded groups by position
        self.tail_seconds = 0.0
        self._tail_measured: float | None = None  # time up to which it is measured, None before the last request
        self._running, self._peak = 0, 1

    def groups(self) -> dict[int, Group]:
        """The graded groups up to the cutoff, by position, once it is final."""
        return {position: self._groups[position] for position in self._positions if position <= self._cutoff.last}

    def sample(self) -> None:
        """Samples and grades until every group up to the cutoff is graded.

        Raises:
            PartError: The engine or the grading failed.
        """
        try:
            self._sample()
            while any(position <= self._cutoff.last for position in self._ungraded):
                self._collect(POLL_SECONDS)
                self._on_tokens(0, 0)
            self._measure_tail(0)
        finally:
            self._cancel_grading(-1)

    def _sample(self) -> None:
        several = any(request.replies is not None for request in self._requests)
        generate = partial(turns.generate, self._engine) if several else self._engine.generate
        stream = call_plugin(self._engine, "generate()", lambda: generate(self._stream(), _Cancelled(self)))
        try:
            while (step := call_plugin(self._engine, "generate()", lambda: next(stream, None))) is not None:
                self._take(step)
                self._on_tokens(step.responses, step.tokens)
        finally:
            if hasattr(stream, "close"):  # ends the engine's work where something was raised
                stream.close()
        missing = (number for number in range(len(self._requests)) if number in self._open or number >= self._taken)
        if (first := next((number for number in missing if not self.is_cancelled(number)), None)) is not None:
            problem = self._prompts[self._positions[first]].problem.id
            expected = f"the responses to all problems before it ends; those to problem {problem} are missing"
            raise invalid_return(self._engine, "generate()", StopIteration(), expected)

    def is_cancelled(self, number: int) -> bool:
        """Whether the group of a request, counted from 0, can no longer count."""
        return self._positions[number] > self._cutoff.last

    def _stream(self) -> Iterator[Request]:
        """The requests, each as late as the engine has room for it; none after the cutoff."""
        for number, request in enumerate(self._requests):
            if self.is_cancelled(number):
                break
            self._open.add(number)
            self._taken += 1
            self.responses_begun += request.group_size
            yield request
        if self._tail_measured is None:
            self._tail_measured = time.perf_counter()

    def _take(self, step: SamplingStep) -> None:
        """Has finished groups graded, and moves the cutoff by those that are."""
        if not isinstance(step, SamplingStep):
            raise invalid_return(self._engine, "generate()", step, "an iterator of SamplingStep")
        for group in step.finished:
            self._finish(group)
        self._ended += step.responses
        self._collect()
        needed = sum(not self.is_cancelled(number) for number in self._open)  # groups may be cancelled in part
        self._measure_tail(min(needed * self._group_size, self.responses_begun - self._ended))

    def _finish(self, group: FinishedGroup) -> None:
        if not isinstance(group, FinishedGroup) or group.index not in self._open:
            expected = "a FinishedGroup for each request that it has taken, once"
            raise invalid_return(self._engine, "generate()", group, expected)
        position = self._positions[group.index]
        prompt = self._prompts[position]
        _check_rollouts(self._engine, prompt, group.rollouts, self._group_size, self._vocabulary)
        self._open.remove(group.index)
        if not self.is_cancelled(group.index):
            self._ungraded[position] = future = self._grading.submit(self._grade(prompt, group.rollouts))
            future.add_done_callback(lambda done: self._newly_graded.put((position, done)))

    def _cancel_grading(self, last: int) -> None:
        """Ends the grading of the groups after a position; a reward in a thread goes on to its end. Those that wait for
        a place in their reward come before those that have one, or they would get it."""
        for position in [position for position in reversed(self._ungraded) if position > last]:
            self._ungraded.pop(position).cancel()

    def _collect(self, seconds: float = 0.0) -> None:
        """Takes the groups that were graded; waits up to `seconds` for the first of them."""
        while True:
            try:
                position, graded = self._newly_graded.get(seconds > 0, seconds)
            except Empty:
                break
            seconds = 0.0
            if self._ungraded.pop(position, None) is None:  # cancelled
                continue
            self._groups[position] = group = graded.result()
            if group.outcome is Outcome.KEPT:
                self._cutoff.keep(position)
        self._cutoff.look()
        self._cancel_grading(self._cutoff.last)

    def _measure_tail(self, running: int) -> None:
        """Adds the time since the last call in which places were free; then, `running` responses are sampled."""
        if self._tail_measured is not None:
            now = time.perf_counter()
            self.tail_seconds += (now - self._tail_measured) * (1 - self._running / self._peak)
            self._tail_measured = now
        self._running, self._peak = running, max(self._peak, running)


@dataclass(frozen=True)
class _Cancelled:
    """The numbers of the requests whose groups can no longer count, as the engine looks them up."""

    draw: LocalDraw

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int) and self.draw.is_cancelled(number)


def _check_rollouts(
    engine: RolloutEngine, prompt: Prompt, rollouts: list[Rollout], group_size: int, vocabulary: int
) -> None:
    doing = f"generate(), problem {prompt.problem.id}"
    if not isinstance(rollouts, list) or len(rollouts) != group_size:
        raise invalid_return(engine, doing, rollouts, f"a list of {group_size} rollouts, one per response")
    expected = "a Rollout with at least one token and a log-probability for each that the policy chose"
    for rollout in rollouts:
        if not isinstance(rollout, Rollout) or not 0 < len(rollout.log_probs) == rollout.chosen_tokens:
            raise invalid_return(engine, doing, rollout, expected)
        ids, log_probs = np.asarray(rollout.token_ids), np.asarray(rollout.log_probs)
        finite = "log-probabilities, finite (float16 may overflow) and at most 0"
        for values, good, what in (
            (ids, (ids >= 0) & (ids < vocabulary), f"token ids from 0 to {vocabulary - 1}"),
            (log_probs, np.isfinite(log_probs) & (log_probs <= POSITIVE), finite),
        ):
            if not good.all():
                raise invalid_return(engine, doing, values[~good][0].item(), what)
