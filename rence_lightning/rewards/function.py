"""A function as a reward: the shortest way to a task of one's own."""

import hashlib
import inspect
import math
from collections.abc import Callable, Sequence
from types import CodeType
from typing import Any

from rence_lightning.errors import UserError, call_plugin, invalid_return
from rence_lightning.rewards.reward import DECIMALS, Response, Reward, Score

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
        try:
            inspect.signature(function).bind(None)
        except TypeError:
            named = f"{_name(function)}{inspect.signature(function)}"
            raise UserError(f"reward: {named} is not a function of one response; write def reward(response)") from None
        except ValueError:  # a function in C has no signature
            pass
        self.function, self.correct_from = function, correct_from

    def score(self, responses: Sequence[Response]) -> list[Score]:
        """Scores responses; a `PartError` says that the function raised an error or returned no reward."""
        return [self._scored(response) for response in responses]

    @property
    def label(self) -> str:
        code = getattr(self.function, "__code__", None)
        version = f" {_digest(code)}" if code is not None else ""
        return f"{super().label} ({_name(self.function)}{version}, correct from {self.correct_from:g})"

    def _scored(self, response: Response) -> Score:
        doing = f"problem {response.problem.id}"
        value = call_plugin(self.function, doing, lambda: self.function(response))
        if isinstance(value, Score):
            return value
        number = float(value) if isinstance(value, (bool, int, float)) or hasattr(value, "__float__") else math.nan
        number = round(number, DECIMALS)
        if not 0 <= number <= 1:
            raise invalid_return(self.function, doing, value, "a number from 0 to 1, True, False or a Score")
        return Score(number, number >= round(self.correct_from, DECIMALS))


def _name(function: Callable[..., Any]) -> str:
    kind = type(function)
    return f"{getattr(function, '__module__', kind.__module__)}.{getattr(function, '__qualname__', kind.__qualname__)}"


def _digest(code: CodeType) -> str:
    """A digest of what a function computes: a notebook's function may change and keep its name."""
    constants = [_digest(each) if isinstance(each, CodeType) else repr(each) for each in code.co_consts]
    parts = (code.co_code, code.co_names, constants)
    return hashlib.blake2b(repr(parts).encode(), digest_size=4).hexdigest()
