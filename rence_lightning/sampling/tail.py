"""What the tail of a draw costs: engines that run half empty until the longest responses end, and ranks that wait."""

import time
from dataclasses import dataclass

from rence_lightning.distributed import gather


@dataclass(frozen=True)
class TailCosts:
    """The costs of one draw or of several, on one rank or over all.

    They depend on timing, so that two runs of the same samples differ in them.

    Attributes:
        tail_seconds: Time of an engine that was lost because fewer responses were sampled at a time than it has room
            for, after it had taken its last request.
        wait_seconds: Time in which a rank that had finished waited for the others.
        responses_discarded: Number of responses that were begun and do not count, because the batch was complete
            without them.
    """

    tail_seconds: float = 0.0
    wait_seconds: float = 0.0
    responses_discarded: float = 0.0

    def __add__(self, other: "TailCosts") -> "TailCosts":
        return TailCosts(
            self.tail_seconds + other.tail_seconds,
            self.wait_seconds + other.wait_seconds,
            self.responses_discarded + other.responses_discarded,
        )

    def over_ranks(self) -> "TailCosts":
        """The mean of the times, and the sum of the responses."""
        shares = gather(self)
        total = sum(shares, TailCosts())
        mean = 1 / len(shares)
        return TailCosts(total.tail_seconds * mean, total.wait_seconds * mean, total.responses_discarded)


class TailClock:
    """Measures `TailCosts.tail_seconds` of one draw.

    It is the integral of 1 - running / peak over the time from the last request to the end of the draw, where
    `running` is the number of responses that are being sampled and `peak` its largest value in the draw.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._peak = 1
        self._running = 0
        self._since: float | None = None

    def last_request(self) -> None:
        """Called when the engine has taken the last request."""
        if self._since is None:
            self._since = time.perf_counter()

    def update(self, running: int) -> None:
        """Called after each step with the number of responses that are still being sampled."""
        if self._since is not None:
            now = time.perf_counter()
            self.seconds += (now - self._since) * (1 - self._running / self._peak)
            self._since = now
        self._running = running
        self._peak = max(self._peak, running)
