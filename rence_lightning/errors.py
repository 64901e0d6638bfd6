"""The errors that end a run, the text that is printed for each, one line if the user can fix it, and words for it."""

import asyncio
import inspect
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path
from signal import SIGINT, SIGTERM, Signals
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")

PACKAGE = Path(__file__).parent

OUT_OF_MEMORY = (
    "While training: lower trainer.micro_batch_tokens, set model.gradient_checkpointing, or shard over more devices. "
    "While sampling: lower the engine's gpu_memory_utilization or max_num_seqs. docs/scaling.md has the arithmetic."
)


class UserError(ValueError):
    """Invalid input. The message says what is wrong, where (file, line or key) and how to fix it."""


class StarvationError(RuntimeError):
    """An iteration found no group to train on, although prompts are left; the message shows the counts."""


class CheckpointError(RuntimeError):
    """A checkpoint could not be written."""


class EngineError(RuntimeError):
    """The rollout engine failed while it sampled or loaded weights, on this rank or on another."""


class EngineMismatchError(RuntimeError):
    """The rollout engine's log-probabilities differ from the trainer's, so that it samples from another policy."""


class NonFiniteError(RuntimeError):
    """A loss or gradient was not finite, and the run is configured to stop rather than skip."""


class TracedError(Exception):  # a RuntimeError from a StopIteration would leave contextlib as the StopIteration
    """An error with a message of one line and the traceback of its cause, which is empty if nothing was raised."""

    def __init__(self, message: str, trace: str = "") -> None:
        super().__init__(message)
        self.trace = trace


class PartError(TracedError):
    """A part that the configuration names (reward, filter, ...) raised an error or returned something invalid."""


class PeerError(TracedError):
    """Another rank ended with an error whose class is not one of this project's."""


class PeerLost(RuntimeError):
    """Another rank has ended without a word, or did not come to an exchange of values in time."""


class Stopped(Exception):
    """The run was interrupted by the signal of this number; 0 if another rank received it."""

    def __init__(self, number: int) -> None:
        super().__init__(Signals(number).name if number else "another process")
        self.signal = number

    def __reduce__(self) -> tuple[type["Stopped"], tuple[int]]:
        return Stopped, (self.signal,)  # to be sent to other ranks


class PeerFailed(Exception):
    """Another rank has failed, with the error that the other ranks end with; None if that is not known yet."""

    def __init__(self, rank: int | None = None, error: BaseException | None = None) -> None:
        super().__init__(str(error or "another rank has failed"))
        self.rank, self.error = rank, error


LINES = (StarvationError, CheckpointError, EngineError, EngineMismatchError, NonFiniteError, PeerLost)
"""Errors whose message is sufficient, so that no traceback is printed."""


def exit_code(error: BaseException) -> int:
    """The exit code of a process that ends with an error: 2 for invalid input, 128 + number for a signal, else 1."""
    if isinstance(error, Stopped):
        return 128 + (error.signal or SIGTERM)
    if isinstance(error, KeyboardInterrupt):
        return 128 + SIGINT
    return 2 if isinstance(error, UserError) else 1


def explanation(error: BaseException) -> str:
    """The text to print for an error: its message in one line, and a traceback if the message is not sufficient."""
    if isinstance(error, Stopped | KeyboardInterrupt):  # the run has said so
        return ""
    message, kind = one_line(error), type(error).__name__
    if kind == "OutOfMemoryError" or (isinstance(error, PeerError) and "(OutOfMemoryError)" in message):
        message += f" {OUT_OF_MEMORY}"
    if isinstance(error, TracedError):
        return f"error: {message}\n{error.trace}".rstrip()
    if isinstance(error, (UserError, *LINES)):
        return f"error: {message}"
    if isinstance(error, OSError) and "No space left" in message:
        return f"error: {message}; free some space"
    trace = "".join(traceback.format_exception(error)).rstrip()
    return f"{trace}\nerror: {message if OUT_OF_MEMORY in message else f'{kind}: {message}'}"


def report(error: BaseException, aloud: bool) -> None:
    """Hands the error that ends this process to torch's elastic agent, which prints the first of all processes last;
    `aloud` prints it here if no agent does, because there is none or it starts the processes again."""
    text, file = explanation(error), os.environ.get("TORCHELASTIC_ERROR_FILE")
    if text and file:
        Path(file).write_text(json.dumps({"message": text, "timestamp": int(time.time())}))
    last = os.environ.get("TORCHELASTIC_RESTART_COUNT") == os.environ.get("TORCHELASTIC_MAX_RESTARTS")
    if text and aloud and not (file and last):
        print(text, file=sys.stderr, flush=True)


def one_line(error: BaseException) -> str:
    """The message of an error, its lines joined; the name of its class if it has no message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "; ".join([*lines, *getattr(error, "__notes__", ())]) or type(error).__name__


def call_plugin(part: object, doing: str, work: Callable[[], T]) -> T:
    """Calls `work`, which calls a part that the configuration names; `doing` describes it in messages, such as
    `score(), problem math500/3`. Raises `PartError` for an error that is not one of this project's."""
    with plugin_errors(part, doing):
        return work()


@contextmanager
def plugin_errors(part: object, doing: str) -> Iterator[None]:
    """What `call_plugin` does with errors, for code that awaits the part."""
    try:
        yield
    except BaseException as error:  # func_timeout, pytest and trio raise errors that are no Exception
        if isinstance(error, OURS) or type(error).__name__ == "OutOfMemoryError" or _from_outside(error):
            raise
        message = f"{import_path(part)}, {doing}: raised {type(error).__name__}: {one_line(error)}"
        error = error.with_traceback(_from_part(error.__traceback__))
        trace = traceback.format_tb(error.__traceback__) + traceback.format_exception_only(error)
        raise PartError(message, "".join(trace)) from error


def _from_outside(error: BaseException) -> bool:
    """Whether an error ends what a part does, and was not raised by it: Ctrl-C, or the cancellation of its task."""
    if isinstance(error, asyncio.CancelledError):
        with suppress(RuntimeError):  # no event loop runs on this thread
            return (task := asyncio.current_task()) is not None and task.cancelling() > 0
    interrupt = isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()
    return interrupt or isinstance(error, GeneratorExit)


def invalid_return(part: object, doing: str, what: object, expected: str) -> PartError:
    """The error of a part that returned something invalid; of a function it names file and line."""
    shown, code = repr(what), getattr(part, "__code__", None)
    name = import_path(part) if code is None else f"{import_path(part)} ({code.co_filename}:{code.co_firstlineno})"
    return PartError(f"{name}, {doing}: returned {shown[:100]}{'...' * (len(shown) > 100)}; expected {expected}")


def check_parameters(part: object, key: str, method: str, definition: str) -> None:
    """Refuses the part at a key of the configuration if its method does not accept the arguments of `definition`."""
    wanted = definition.partition("(")[2].partition(")")[0].split(", ")[1:]
    function = getattr(part, method, None)
    if not callable(function):
        raise UserError(f"{key}: {import_path(part)} has no method {method}; write {definition}")
    signature = inspect.signature(function)
    try:
        signature.bind(*wanted)
    except TypeError:
        raise UserError(f"{key}: {import_path(part)} has {method}{signature}; write {definition}") from None


OURS = (UserError, *LINES, PartError, PeerError, PeerFailed, Stopped)
"""Errors of this project, which a part may raise itself and which are passed on unchanged."""


def import_path(part: object) -> str:
    """The import path of a function, or of the class of an object."""
    named = part if hasattr(part, "__qualname__") else type(part)
    return f"{named.__module__}.{named.__qualname__}"


def _from_part(whole: TracebackType | None) -> TracebackType | None:
    """The traceback from the part's code on, without the frames of the loop that called the part."""
    trace = whole
    while trace is not None and Path(trace.tb_frame.f_code.co_filename).is_relative_to(PACKAGE):
        trace = trace.tb_next
    return trace or whole


def shortened(text: str, length: int = 60) -> str:
    """The text in quotes, cut where it is longer than `length`; line breaks are written as escapes."""
    return repr(text if len(text) <= length else f"{text[: length - 3]}...")


def kind_of(value: object) -> str:
    """What a value of a data set is, in words."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), f"the number {value}" if isinstance(value, (int, float)) else type(value).__name__)


def install_extra(extra: str) -> str:
    """How to install the optional dependencies `extra`, for an error message: the package is not on PyPI."""
    return f"run pip install -e '.[{extra}]' in the root of the clone, or pip install 'WHEEL[{extra}]' with your wheel"


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name that is most like `name`, or None where the similarity is below the cutoff, from 0 to 1."""
    return next(iter(get_close_matches(name, list(known), n=1, cutoff=cutoff)), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error message, ` (did you mean X?)`; empty where no known name is like `name`."""
    near = nearest(name, known)
    return f" (did you mean {near}?)" if near is not None else ""
