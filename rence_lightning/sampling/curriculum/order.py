"""The order in which prompts are drawn: shuffled epochs of one data set, or of several, mixed by weight."""

import random
from collections import deque
from collections.abc import Container, Iterable, Sequence
from typing import Any

from rence_lightning.errors import UserError


class ShuffledEpochs:
    """An endless sequence of the prompts of one data set, in a new random order in each epoch.

    Args:
        indices: Indices of the prompts.
        name: Name of the random stream; the same name gives the same order.
    """

    def __init__(self, indices: Iterable[int], name: str) -> None:
        self.indices = list(indices)
        self.epoch = 0
        self._name = name
        self._queue: deque[int] = deque()

    def next(self, without: Container[int]) -> int:
        """The next prompt that is not in `without`. There must be one, or this never returns."""
        while True:
            if not self._queue:
                order = [index for index in self.indices if index not in without]
                random.Random(f"{self._name}/{self.epoch}").shuffle(order)
                self._queue.extend(order)
                self.epoch += 1
            index = self._queue.popleft()
            if index not in without:
                return index

    def put_back(self, indices: Sequence[int]) -> None:
        """Makes these prompts the next ones, in this order."""
        self._queue.extendleft(reversed(indices))

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "queue": list(self._queue)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self._queue = state["epoch"], deque(state["queue"])


class Mixture:
    """Several data sets, from which prompts are drawn in proportion to weights, as evenly as whole turns allow.

    Args:
        sets: Indices of the prompts of each data set.
        weights: Positive weight of each set; None draws from one order over all sets, in which every prompt occurs once
            per epoch.
        seed: Seed of the random orders.

    Raises:
        UserError: The number of weights is not the number of sets, or a weight is not positive.
    """

    def __init__(self, sets: Sequence[Sequence[int]], weights: Sequence[float] | None, seed: int) -> None:
        if weights is None:
            self.epochs = [ShuffledEpochs([index for each in sets for index in each], str(seed))]
            self._weights = [1.0]
        else:
            if len(weights) != len(sets) or not all(weight > 0 for weight in weights):
                raise UserError(
                    f"data.weights: {list(weights)}: give a weight > 0 for each of the {len(sets)} sources in "
                    "data.problems"
                )
            self.epochs = [ShuffledEpochs(each, f"{seed}/{number}") for number, each in enumerate(sets)]
            self._weights = list(weights)
        self._turns = [0] * len(self.epochs)

    def whose_turn(self, among: Container[int]) -> int:
        """The number of the set, among those given, whose turns are furthest below its weight."""
        sets = [number for number in range(len(self.epochs)) if number in among]
        return min(sets, key=lambda number: ((self._turns[number] + 1) / self._weights[number], number))

    def count_turn(self, number: int) -> None:
        """Counts a turn of a set."""
        self._turns[number] += 1

    def state_dict(self) -> dict[str, Any]:
        return {"turns": list(self._turns), "epochs": [each.state_dict() for each in self.epochs]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._turns = list(state["turns"])
        for each, saved in zip(self.epochs, state["epochs"], strict=True):
            each.load_state_dict(saved)
