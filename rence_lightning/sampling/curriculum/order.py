"""The order in which prompts come up: shuffled epochs, or several data sets' shuffled epochs mixed by weight."""

import random
from collections import deque
from collections.abc import Container, Iterable, Sequence
from typing import Any

from rence_lightning.errors import UserError


class ShuffledEpochs:
    """The prompts of one data set, in a new random order each epoch, without end.

    Args:
        indices: The prompts.
        name: Of the random stream: the same name gives the same order.
    """

    def __init__(self, indices: Iterable[int], name: str) -> None:
        self.indices = list(indices)
        self.epoch = 0
        self._name = name
        self._queue: deque[int] = deque()

    def next(self, without: Container[int]) -> int:
        """The next prompt that is not `without`; there must be one."""
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
        """These come up next, in this order."""
        self._queue.extendleft(reversed(indices))

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "queue": list(self._queue)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self._queue = state["epoch"], deque(state["queue"])


class Mixture:
    """Data sets whose turns come in proportion to their weights, as evenly as whole turns allow.

    Args:
        sets: The prompts of each data set.
        weights: One a set, positive; null weighs every prompt alike, in one order over all sets.
        seed: Of the orders.

    Raises:
        UserError: There are not as many weights as sets, or one is not positive.
    """

    def __init__(self, sets: Sequence[Sequence[int]], weights: Sequence[float] | None, seed: int) -> None:
        if weights is None:
            self.epochs = [ShuffledEpochs([index for each in sets for index in each], str(seed))]
            self._weights = [1.0]
        else:
            if len(weights) != len(sets) or not all(weight > 0 for weight in weights):
                raise UserError(f"data.weights: {list(weights)}: give one above 0 for each of the {len(sets)} problems")
            self.epochs = [ShuffledEpochs(each, f"{seed}/{number}") for number, each in enumerate(sets)]
            self._weights = list(weights)
        self._turns = [0] * len(self.epochs)

    @property
    def indices(self) -> list[int]:
        return [index for each in self.epochs for index in each.indices]

    @property
    def epoch(self) -> int:
        """Epochs begun of the set that has seen the fewest."""
        return min(each.epoch for each in self.epochs if each.indices)

    def whose_turn(self, among: Container[int]) -> int:
        """The number of the set, of those given, that is furthest behind its weight."""
        sets = [number for number in range(len(self.epochs)) if number in among]
        return min(sets, key=lambda number: ((self._turns[number] + 1) / self._weights[number], number))

    def count_turn(self, number: int) -> None:
        self._turns[number] += 1

    def state_dict(self) -> dict[str, Any]:
        return {"turns": list(self._turns), "epochs": [each.state_dict() for each in self.epochs]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._turns = list(state["turns"])
        for each, saved in zip(self.epochs, state["epochs"], strict=True):
            each.load_state_dict(saved)
