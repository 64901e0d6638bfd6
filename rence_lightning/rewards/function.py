"""A function as a reward: the shortest way to a task of one's own."""

import asyncio
import hashlib
import inspect
import math
import warnings
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from types import CodeType
from typing import Any

from rence_lightning.errors import PartError, UserError, call_plugin, import_path, invalid_return, plugin_errors
from rence_lightning.rewards.reward import DECIMALS, Response, Reward, Score
from rence_lightning.rewards.waiting import in_thread, slots_of, together, without_loop

RewardFunction = Callable[[Response], float | bool | Score | Awaitable[float | bool | Score]]
"""The reward of one response, in [0, 1]; True is 1. A `Score` also says what is correct, and what the answer is."""

ALL_FAILED = 64
"""Number of responses that fail, without one that does not, after which the fault is the function's."""


class FunctionReward(Reward):
    """Scores each response by a function of it.

    Args:
        function: Function of a `Response` that returns its reward in [0, 1], a truth value or a `Score`. In YAML, the
            import path of a function, such as `my_task.reward`; the current folder is searched too. It may be an
            `async def`.
        correct_from: Smallest reward of a response that counts as correct, where the function returns no `Score`.
            Correct responses are the positives that are contrasted with the others, and a group of them is mastered.
        concurrency: Number of responses that are graded at a time, of any groups (default: 64 for an `async def`, else
            1). Above 1, an ordinary function runs in that many threads: it must be safe there, and gains only where it
            waits for a server or a program.
        time_limit: Seconds for a response, for an `async def` (default: no limit). An ordinary function cannot be
            stopped from outside and limits its own calls.
        retries: Number of further attempts at a response that failed: the function raised an error, took longer than
            `time_limit`, or returned no reward (NaN, None, 2.0).
        on_failure: Reward of a response that failed in all attempts, which is not correct;
            `rollouts/reward_failures` counts these (default: a failure ends the run). If the first 64 responses all
            fail, the run ends too.

    Raises:
        UserError: `function` cannot be called, or a number is out of its range.
    """

    # Any, because the parser takes a function that returns objects of a class for the name of that class.
    def __init__(
        self,
        function: Callable[[Response], Any],
        correct_from: float = 1.0,
        concurrency: int | None = None,
        time_limit: float | None = None,
        retries: int = 0,
        on_failure: float | None = None,
    ) -> None:
        if not callable(function):
            raise UserError(f"reward: function is {function!r}; give a function of a response, or its import path")
        if not 0 < correct_from <= 1:
            raise UserError(f"reward: correct_from is {correct_from}; it must be in (0, 1]")
        try:
            bound = inspect.signature(function).bind(None)
            if "completions" in bound.signature.parameters:  # the list of all of them, in TRL
                raise TypeError
        except TypeError:
            named = f"{import_path(function)}{inspect.signature(function)}"
            raise UserError(
                f"reward: {named} is not a function of one response; write def reward(response), with response.text, "
                "response.problem.answer and response.problem.fields, the columns of its row"
            ) from None
        except ValueError:  # a function in C has no signature
            pass
        self._waits = any(map(inspect.iscoroutinefunction, (function, getattr(function, "__call__", None))))  # noqa: B004
        self.concurrency = (64 if self._waits else 1) if concurrency is None else concurrency
        if self.concurrency < 1 or retries < 0 or not 0 <= (on_failure or 0) <= 1:
            raise UserError(
                f"reward: concurrency is {self.concurrency}, retries {retries} and on_failure {on_failure}; they must "
                "be >= 1, >= 0, and from 0 to 1 or null"
            )
        if time_limit is not None and not (self._waits and time_limit > 0):
            raise UserError(
                f"reward: time_limit is {time_limit}; it must be above 0, and {import_path(function)} an async def: an "
                "ordinary function cannot be stopped, so give its own calls a limit, as in urlopen(..., timeout=10)"
            )
        self.time_limit, self.retries, self.on_failure = time_limit, retries, on_failure
        self._failures: list[bool] = []  # a list, because several threads add to it
        self._counted, self._succeeded = 0, False
        self.function, self.correct_from = function, correct_from

    def score(self, responses: Sequence[Response]) -> list[Score]:
        """Scores responses; a `PartError` says that the function raised an error or returned no reward."""
        if self._waits:
            return without_loop(self.score_async(responses))
        return [self._scored(response) for response in responses]

    async def score_async(self, responses: Sequence[Response]) -> list[Score]:
        """Scores responses as `score` does, while the responses of other groups are scored on the same event loop."""
        slots = slots_of(self, self.concurrency)
        if self._waits:
            return await together(self._awaited(response, slots) for response in responses)
        if self.concurrency > 1:
            return await together(in_thread(partial(self._scored, response), slots) for response in responses)
        return await in_thread(lambda: self.score(responses), slots)

    @property
    def label(self) -> str:
        code = getattr(self.function, "__code__", None)
        version = f" {_digest(code)}" if code is not None else ""
        failed = f", failures {self.on_failure:g}" if self.on_failure is not None else ""
        return f"{super().label} ({import_path(self.function)}{version}, correct from {self.correct_from:g}{failed})"

    def figures(self) -> dict[str, float]:
        """The number of responses that failed since the last call, where failures do not end the run."""
        total = len(self._failures)
        new, self._counted = total - self._counted, total
        return {} if self.on_failure is None else {"reward_failures": float(new)}

    def _scored(self, response: Response) -> Score:
        doing = f"problem {response.problem.id}"
        for _ in range(self.retries + 1):
            try:
                value = call_plugin(self.function, doing, lambda: self.function(response))
                return self._score_of(value, doing)
            except PartError as error:
                failure = error
        return self._failed(failure)

    async def _awaited(self, response: Response, slots: asyncio.Semaphore) -> Score:
        doing = f"problem {response.problem.id}"
        for _ in range(self.retries + 1):
            try:
                async with slots, asyncio.timeout(self.time_limit):
                    with plugin_errors(self.function, doing):
                        value = await self.function(response)
                return self._score_of(value, doing)
            except TimeoutError:
                failure = PartError(
                    f"{import_path(self.function)}, {doing}: took longer than time_limit, {self.time_limit:g} s"
                )
            except PartError as error:
                failure = error
        return self._failed(failure)

    def _score_of(self, value: Any, doing: str) -> Score:
        reward = value.reward if isinstance(value, Score) else value
        try:
            number = math.nan if isinstance(reward, str | bytes) else round(float(reward), DECIMALS)
        except (TypeError, ValueError, OverflowError):  # such as an array of several numbers
            number = math.nan
        if not 0 <= number <= 1:
            hint = "; give the async def itself, not a function that calls it" if inspect.isawaitable(value) else ""
            expected = f"a number from 0 to 1, True, False or a Score{hint}"
            raise invalid_return(self.function, doing, value, expected)
        self._succeeded = True
        return value if isinstance(value, Score) else Score(number, number >= round(self.correct_from, DECIMALS))

    def _failed(self, failure: PartError) -> Score:
        if self.on_failure is None:
            raise failure
        self._failures.append(True)
        if len(self._failures) == ALL_FAILED and not self._succeeded:
            raise PartError(f"{failure}; so did all of the first {ALL_FAILED} responses, with every attempt")
        if len(self._failures) == 1:
            scored = f"a response that fails scores {self.on_failure:g}, and rollouts/reward_failures counts these"
            warnings.warn(f"reward: {failure}; {scored}", stacklevel=2)
        return Score(self.on_failure, False)


def _digest(code: CodeType) -> str:
    """A digest of what a function computes: a notebook's function may change and keep its name."""
    constants = [_digest(each) if isinstance(each, CodeType) else repr(each) for each in code.co_consts]
    parts = (code.co_code, code.co_names, constants)
    return hashlib.blake2b(repr(parts).encode(), digest_size=4).hexdigest()
