"""How far a draw is sampled: up to the last group that can still be in the batch, in the order of the draw.

The batch holds the first B groups that are kept in the order in which their prompts were drawn. Those that finish first
would be the short ones, and a policy that learns from them alone learns to be short.
"""

import time
from collections.abc import Iterable

from rence_lightning.distributed import board, gather, rank_and_world

POLL_SECONDS = 0.2
"""Time between two looks at what other ranks have kept."""


class Cutoff:
    """The last position of a draw whose group can still count.

    As soon as enough groups before a position are known to be kept, the group at this position cannot be in the batch,
    whatever the unfinished groups turn out to be. The cutoff therefore only moves towards the start, and where it ends
    does not depend on the order in which groups finish, nor on when ranks learn of one another's.

    Args:
        count: Number of prompts of the draw.
        wanted: Number of kept groups that complete the batch; None if all groups of the draw count.
        topic: Name of the draw on the board, unique in the run.

    Attributes:
        last: Last position that can count, from 0, as far as this rank knows.
    """

    def __init__(self, count: int, wanted: int | None, topic: str) -> None:
        self.last = count - 1
        self._wanted = wanted
        self._topic = topic
        self._kept: set[int] = set()  # by any rank
        self._own: list[int] = []
        self._noted = 0  # number of own positions that are on the board
        self._board = board() if wanted is not None else None
        self._looked = time.monotonic()

    def keep(self, position: int) -> None:
        """Adds a group of this rank that was kept."""
        self._own.append(position)
        self._add([position])

    def look(self) -> None:
        """Exchanges kept positions with the other ranks, without waiting for them; cheap enough for every step."""
        if self._board is not None and time.monotonic() - self._looked >= POLL_SECONDS:
            self._note()
            self._add(self._board.read(self._topic))
            self._looked = time.monotonic()

    def settle(self) -> None:
        """Waits for all ranks; from here on, the cutoff is final and the same on all of them."""
        self._note()
        for positions in gather(self._own):
            self._add(positions)
        if self._board is not None and rank_and_world()[0] == 0:
            self._board.remove(self._topic)

    def _note(self) -> None:
        if self._board is not None and self._noted < len(self._own):
            self._board.note(self._topic, self._own[self._noted :])
            self._noted = len(self._own)

    def _add(self, positions: Iterable[int]) -> None:
        self._kept.update(positions)
        if self._wanted is not None and len(self._kept) >= self._wanted:
            self.last = sorted(self._kept)[self._wanted - 1]
