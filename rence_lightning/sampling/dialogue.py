"""The replies of an environment to the turns of responses, as token ids for the engine."""

import asyncio
import copy
import warnings
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from inspect import iscoroutinefunction
from typing import Any

from transformers import PreTrainedTokenizerBase

from rence_lightning.environments import Environment, TurnLimits
from rence_lightning.errors import UserError, one_line, shortened
from rence_lightning.prompts import Prompt, PromptTemplate
from rence_lightning.rewards.waiting import in_thread, slots_of
from rence_lightning.rollouts.engine import Replies
from rence_lightning.sampling.grading import GradingThread
from rence_lightning.sampling.scoring import text_of

CALLS = 4096
"""Number of replies that environments which block compute at a time, each in a thread."""

CHARACTERS = 8
"""Number of characters for each token of the limit that are encoded first of a long reply."""

ENDS = "the response ends there, and rollouts/environment_failures counts these"


class Dialogues:
    """The responses of several turns of a run.

    Args:
        environment: Environment, of which each response gets a copy.
        limits: Limits of turns.
        template: Template of the prompts, which also writes the replies.
        tokenizer: The policy's tokenizer.
        end_ids: Tokens that end a response of one turn.

    Raises:
        UserError: A text of the environment's `stop` is not ASCII, or the chat template refuses its `role`.

    Attributes:
        stop_ids: Tokens at which one of the environment's `stop` may end.
    """

    def __init__(
        self,
        environment: Environment,
        limits: TurnLimits,
        template: PromptTemplate,
        tokenizer: PreTrainedTokenizerBase,
        end_ids: Sequence[int],
    ) -> None:
        self.environment, self.limits, self.tokenizer = environment, limits, tokenizer
        self.end_ids = frozenset(end_ids)
        self.stop_ids = _ends_of(tokenizer, environment.stop) - self.end_ids
        self._within, self._after = (template.reply_encoder(tokenizer, role) for role in (None, environment.role))
        written = text_of(tokenizer, self._after("reply"))
        if template.is_chat(tokenizer) and "reply" not in written:
            raise UserError(
                f"environment: the chat template of the tokenizer leaves a turn of the role {environment.role!r} out; "
                "let the environment reply in the role user"
            )
        self._counts: Counter[str] = Counter()
        self._failed = False

    @property
    def label(self) -> str:
        """The environment and its limits in the description of an evaluation."""
        given = (f"{name}={value!r}" for name, value in self.environment.arguments().items())
        return f"{type(self.environment).__name__}({', '.join(given)}), {self.limits}"

    def figures(self) -> dict[str, float]:
        """Counts since the last call, for the log."""
        counts, self._counts = self._counts, Counter()
        return {name: float(counts[name]) for name in ("environment_failures", "replies_cut")}

    def to(self, prompt: Prompt, seed_of: Callable[[int], int], thread: GradingThread) -> Replies:
        """What replies to the responses to a prompt; `seed_of` gives the environment's seed of each."""
        talks: dict[int, _Talk] = {}

        def replies(response: int, token_ids: "array[int]") -> "Future[Sequence[int] | None]":
            if response not in talks:
                talks[response] = _Talk(self, prompt, seed_of(response))
            return talks[response].take(token_ids, thread)

        return replies

    def encoded(self, reply: str, within: bool) -> list[int]:
        """The tokens of a reply within a turn, or after one."""
        reply.encode()  # half a character: the tokenizer's own error does not say so
        most = self.limits.max_reply_tokens
        size = CHARACTERS * most
        while len(ids := self._within(reply[:size])) <= most and size < len(reply):  # it may be huge
            size *= 2
        if len(ids) > most:
            self._counts["replies_cut"] += 1
            ids = ids[:most]
            reply = text_of(self.tokenizer, ids)
        return ids if within else self._after(reply)

    def count_failure(self, prompt: Prompt, what: str) -> None:
        """Counts a turn that the environment has not answered; the first of a run is said."""
        if not self._failed:
            name = type(self.environment).__name__
            warnings.warn(f"environment: {name}, problem {prompt.problem.id}: {what}; {ENDS}", stacklevel=2)
        self._failed = True
        self._counts["environment_failures"] += 1


class _Talk:
    """One response: its environment, and how much of it was replied to."""

    def __init__(self, run: Dialogues, prompt: Prompt, seed: int) -> None:
        self._run, self._prompt, self._seed = run, prompt, seed
        self._environment = copy.copy(run.environment)
        self._seen = self._turns = 0

    def take(self, token_ids: "array[int]", thread: GradingThread) -> "Future[Sequence[int] | None]":
        """The reply to the tokens so far, as in `rence_lightning.rollouts.engine.Replies`."""
        run, turn = self._run, token_ids[self._seen :]
        within = turn[-1] not in run.end_ids
        text = text_of(run.tokenizer, turn if within else turn[:-1])
        goes_on = within and not any(stop in text for stop in run.environment.stop)
        self._turns += not goes_on
        if goes_on or self._turns == run.limits.max_turns:
            at_once: Future[Sequence[int] | None] = Future()
            at_once.set_result(() if goes_on else None)
            return at_once
        return thread.submit(self._reply(text, within, len(token_ids)))

    async def _reply(self, turn: str, within: bool, count: int) -> Sequence[int] | None:
        limit = self._run.limits.reply_seconds
        try:
            async with asyncio.timeout(limit) as clock:
                if self._turns == 1:
                    await self._call(self._environment.start, self._prompt.problem, self._seed)
                reply = await self._call(self._environment.reply, turn)
            if reply is None:
                return None
            if isinstance(reply, str):
                ids = self._run.encoded(reply, within)
                self._seen = count + len(ids)
                return ids
            failure = f"returned {shortened(str(reply))}, not a text or None"
        except (Exception, SystemExit) as error:
            late = isinstance(error, TimeoutError) and clock.expired()
            failure = f"took longer than {limit:g} s" if late else f"raised {type(error).__name__}: {one_line(error)}"
        self._run.count_failure(self._prompt, failure)
        return None

    async def _call(self, method: Callable[..., Any], *arguments: object) -> Any:
        if iscoroutinefunction(method):
            return await method(*arguments)
        work = partial(method, *arguments)
        return await in_thread(work, slots_of(self._run.environment, CALLS)) if self._environment.blocks else work()


def _ends_of(tokenizer: PreTrainedTokenizerBase, stops: Sequence[str]) -> frozenset[int]:
    """The tokens with which one of the texts may end; `_Talk.take` looks whether it does."""
    if isinstance(stops, str) or not all(stop and stop.isascii() for stop in stops):
        raise UserError(f"environment: stop is {stops!r}; give a list of texts of ASCII characters")
    ends = tuple(stop[first:] for stop in stops for first in range(len(stop)))
    texts = tokenizer.batch_decode([[each] for each in range(len(tokenizer))]) if stops else []
    return frozenset(
        each for each, text in enumerate(texts) if text.startswith(ends) or any(stop in text for stop in stops)
    )
