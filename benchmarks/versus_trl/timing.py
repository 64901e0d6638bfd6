"""The seconds of an iteration, in parts."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

PARTS = ("generate", "reward", "log-probs", "train")


@dataclass(frozen=True)
class IterationTime:
    """The wall-clock seconds of one iteration.

    Attributes:
        total: Seconds from the start of the iteration to that of the next.
        parts: Seconds of sampling, of the reward beyond sampling, and of log-probabilities before the first update;
            `train` is the rest.
        prompts: Token ids of the prompts that were sampled, each once, in ascending order.
        response_tokens: Number of response tokens.
    """

    total: float
    parts: dict[str, float]
    prompts: tuple[tuple[int, ...], ...]
    response_tokens: int

    @property
    def prompt_tokens(self) -> int:
        """Number of prompt tokens, each prompt counted once."""
        return sum(map(len, self.prompts))


@dataclass
class Stopwatch:
    """Measures iterations that follow one another directly."""

    times: list[IterationTime] = field(default_factory=list)
    _started: float | None = None
    _parts: dict[str, float] = field(default_factory=dict)
    _prompts: tuple[tuple[int, ...], ...] = ()
    _response_tokens: int = 0

    def start_iteration(self) -> None:
        """Ends the iteration at hand, if there is one, and starts the next."""
        now = time.perf_counter()
        if self._started is not None:
            total = now - self._started
            parts = {part: self._parts.get(part, 0.0) for part in PARTS}
            parts["train"] = total - sum(self._parts.values())
            self.times.append(IterationTime(total, parts, self._prompts, self._response_tokens))
        self._started, self._parts, self._prompts, self._response_tokens = time.perf_counter(), {}, (), 0

    end = start_iteration

    @contextmanager
    def measures(self, part: str) -> Iterator[None]:
        """Adds the seconds of a block to a part of the iteration, also where the block is left early."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(part, time.perf_counter() - start)

    def add(self, part: str, seconds: float) -> None:
        """Adds seconds to a part of the iteration."""
        self._parts[part] = self._parts.get(part, 0.0) + seconds

    def sampled(self, prompts: Iterable[Sequence[int]], response_tokens: int) -> None:
        """Sets what the iteration sampled: the token ids of its prompts, and the number of response tokens."""
        self._prompts, self._response_tokens = tuple(sorted(map(tuple, prompts))), response_tokens
