"""A function as a reward: the shortest way to a task of one's own."""

from collections.abc import Callable, Sequence
from typing import Any

from rence_lightning.errors import UserError
from rence_lightning.rewards.base import Response, Reward, Score

RewardFunction = Callable[[Response], float | bool | Score]
"""The reward of one response, in [0, 1]; True is 1. A `Score` also says what is correct, and what the answer is."""


class FunctionReward(Reward):
    """Scores each response by a function of it.

    Args:
        function: Function of a `Response` that returns its reward in [0, 1], a truth value or a `Score`. In YAML, the
            import path of a function, such as `my_task.reward`; the current folder is searched too.
        correct_from: Smallest reward of a response that counts as correct, where the function returns no `Score`.
            Correct responses are the positives that are contrasted with the others, and a group of them is mastered.

    Raises:
        UserError: `function` cannot be called, or `correct_from` is not in (0, 1].
    """

    # Any, because the parser takes a function that returns objects of a class for the name of that class.
    def __init__(self, function: Callable[[Response], Any], correct_from: float = 1.0) -> None:
        if not callable(function):
            raise UserError(f"reward: function is {function!r}; give a function of a response, or its import path")
        if not 0 < correct_from <= 1:
            raise UserError(f"reward: correct_from is {correct_from}; it must be in (0, 1]")
        self.function = function
        self.correct_from = correct_from

    def score(self, responses: Sequence[Response]) -> list[Score]:
        return [self._score(self.function(response)) for response in responses]

    @property
    def label(self) -> str:
        return f"{super().label} ({self._name}, correct from {self.correct_from:g})"

    @property
    def _name(self) -> str:
        return str(getattr(self.function, "__qualname__", type(self.function).__name__))

    def _score(self, value: float | bool | Score) -> Score:
        """The score that a value of the function stands for; the caller checks that it is a number in [0, 1]."""
        if isinstance(value, Score):
            return value
        if not isinstance(value, (bool, int, float)) and not hasattr(value, "__float__"):
            raise UserError(
                f"reward: {self._name}() returned {value!r:.100}; a reward function returns a number in [0, 1], "
                "True, False or a Score"
            )
        return Score(float(value), float(value) >= self.correct_from)
