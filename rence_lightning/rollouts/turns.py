"""Responses of several turns by an engine that samples one: each turn is a request whose prompt ends with the reply."""

import random
from array import array
from collections import deque
from collections.abc import Container, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from typing import Any

from rence_lightning.rollouts.engine import FinishedGroup, FinishReason, Request, Rollout, RolloutEngine, SamplingStep

POLL_SECONDS = 0.01
"""Longest wait for a reply without a step."""


@dataclass(eq=False)
class _Talk:
    """A response that is being sampled."""

    index: int  # of its request
    request: Request
    response: int
    tokens: "array[int]" = field(default_factory=lambda: array("i"))
    log_probs: "array[float]" = field(default_factory=lambda: array("f"))
    replies: list[tuple[int, int]] = field(default_factory=list)
    turns: int = 0
    reply: "Future[Sequence[int] | None] | None" = None

    def turn(self) -> Request:
        """The request for its next turn, with a seed of its own."""
        self.turns += 1
        sampling, seed = self.request.sampling, f"{self.request.seed} {self.response} {self.turns}"
        return replace(
            self.request,
            prompt=[*self.request.prompt, *self.tokens],
            group_size=1,
            sampling=replace(sampling, max_response_tokens=sampling.max_response_tokens - len(self.tokens)),
            seed=random.Random(seed).getrandbits(63),
            replies=None,
        )


def generate(engine: RolloutEngine, requests: Iterable[Request], cancelled: Container[int]) -> Iterator[SamplingStep]:
    """`engine.generate` for responses of any number of turns."""
    if getattr(engine, "takes_turns", False):
        return engine.generate(requests, cancelled)
    return TurnByTurn(engine, requests, cancelled).stream()


class TurnByTurn:
    """The turns of one call of `generate`, which an engine samples one by one.

    Args:
        engine: Engine that samples a turn.
        requests: Requests for responses of several turns.
        cancelled: Numbers of those that are no longer needed.
    """

    def __init__(self, engine: RolloutEngine, requests: Iterable[Request], cancelled: Container[int]) -> None:
        self._engine = engine
        self._requests, self._requests_left = enumerate(requests), True
        self._cancelled = cancelled
        self._ready: deque[_Talk] = deque()
        self._taken: list[_Talk] = []  # in the order of the engine's requests
        self._first = 0  # place of the first one of this call of the engine
        self._open: dict[int, dict[int, Rollout]] = {}  # responses that have ended, of requests that are not finished
        self._waiting: list[_Talk] = []

    def stream(self) -> Iterator[SamplingStep]:
        """The stream of `RolloutEngine.generate`."""
        try:
            while self._requests_left or self._is_open:
                self._first = len(self._taken)
                steps = self._engine.generate(self._turns(), _Cancelled(self))
                try:
                    yield from map(self._step, steps)
                finally:
                    if hasattr(steps, "close"):
                        steps.close()
                if not self._waiting and len(self._taken) == self._first:
                    break  # the engine has ended without some of its responses
                wait([talk.reply for talk in self._waiting if talk.reply is not None], POLL_SECONDS, FIRST_COMPLETED)
                yield self._step(SamplingStep(0, 0))
        finally:
            for talk in self._waiting:
                assert talk.reply is not None
                talk.reply.cancel()

    @property
    def _is_open(self) -> bool:
        """Whether a response is needed that has not ended."""
        return any(index not in self._cancelled for index in self._open)

    def is_cancelled(self, number: int) -> bool:
        """Whether a request of the engine's is no longer needed."""
        return self._taken[self._first + number].index in self._cancelled

    def _turns(self) -> Iterator[Any]:
        """The turns that can be sampled; None while there are none, for an engine that awaits others."""
        while True:
            if not self._ready and self._requests_left:
                following = next(self._requests, None)
                if following is None:
                    self._requests_left = False
                    continue
                index, request = following
                self._open[index] = {}
                self._ready += [_Talk(index, request, response) for response in range(request.group_size)]
            elif self._ready:
                self._taken.append(self._ready.popleft())
                yield self._taken[-1].turn()
            elif self._is_open and getattr(self._engine, "awaits_requests", False):
                yield None
            else:
                break

    def _take(self, talk: _Talk, turn: Rollout, finished: list[FinishedGroup]) -> int:
        """Adds a turn to its response, and asks for the reply; returns the number of responses that have ended."""
        talk.tokens += turn.token_ids
        talk.log_probs += turn.log_probs
        if len(talk.tokens) >= talk.request.sampling.max_response_tokens or turn.finish_reason == "length":
            cut = talk.tokens[-1] in talk.request.stop_ids  # there is no room for what may be replied
            return self._end(talk, "length" if cut else turn.finish_reason, finished)
        assert talk.request.replies is not None
        talk.reply = talk.request.replies(talk.response, array("i", talk.tokens))
        self._waiting.append(talk)
        return 0

    def _step(self, step: SamplingStep) -> SamplingStep:
        """What a step of the engine, and the replies that have come since the last one, are for the responses."""
        finished: list[FinishedGroup] = []
        turns = [(self._taken[self._first + group.index], group.rollouts[0]) for group in step.finished]
        ended = sum(self._take(*turn, finished) for turn in turns)
        came = [talk for talk in self._waiting if talk.reply is not None and talk.reply.done()]
        return SamplingStep(ended + sum(self._hear(talk, finished) for talk in came), step.tokens, finished)

    def _hear(self, talk: _Talk, finished: list[FinishedGroup]) -> int:
        """Adds a reply to its response."""
        assert talk.reply is not None
        self._waiting.remove(talk)
        reply, count = talk.reply.result(), len(talk.tokens)
        if reply is None or count + len(reply) >= talk.request.sampling.max_response_tokens:
            return self._end(talk, "stop" if reply is None else "length", finished)
        if reply:
            talk.replies.append((count, count + len(reply) - 1))
            talk.tokens += array("i", reply)
        self._ready.append(talk)
        return 0

    def _end(self, talk: _Talk, reason: FinishReason, finished: list[FinishedGroup]) -> int:
        rollouts = self._open[talk.index]
        rollouts[talk.response] = Rollout(talk.tokens, talk.log_probs, reason, tuple(talk.replies))
        if len(rollouts) == talk.request.group_size:
            finished.append(FinishedGroup(talk.index, [rollouts[number] for number in range(len(rollouts))]))
            del self._open[talk.index]
        return 1


@dataclass(frozen=True)
class _Cancelled:
    """The numbers of the engine's requests that are no longer needed, as it looks them up."""

    turns: TurnByTurn

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int) and self.turns.is_cancelled(number)
