"""The errors that end a run, and what is printed of each: one line where the user can fix it."""

import traceback
from collections.abc import Callable
from pathlib import Path
from signal import SIGTERM, Signals
from typing import Any, TypeVar

T = TypeVar("T")

PACKAGE = Path(__file__).parent

OUT_OF_MEMORY = (
    "While training: lower trainer.micro_batch_tokens, set model.gradient_checkpointing, or shard over more devices. "
    "While sampling: lower the engine's gpu_memory_utilization or max_sequences. docs/scaling.md has the arithmetic."
)


class UserError(ValueError):
    """Bad input. The message says what is wrong, where (file, line or key) and how to fix it."""


class StarvationError(RuntimeError):
    """An iteration found no group to train on, although prompts are left; the message shows the counts."""


class CheckpointError(RuntimeError):
    """A checkpoint could not be written; the ones before it are intact."""


class EngineError(RuntimeError):
    """The rollout engine failed while it sampled or took over weights, on this rank or on another."""


class EngineMismatchError(RuntimeError):
    """The rollout engine's log-probabilities are not the trainer's: it samples from another policy."""


class NonFiniteError(RuntimeError):
    """A loss or gradient was not finite, and the run is configured to stop rather than skip."""


class PartError(RuntimeError):
    """A part that the configuration names (reward, filter, engine, objective, callback) raised or returned nonsense.

    Args:
        message: One line: the class, the problem it was working on, what it did and what is expected of it.
        trace: The part's own traceback, where it raised; empty where it returned something wrong.
    """

    def __init__(self, message: str, trace: str = "") -> None:
        super().__init__(message)
        self.trace = trace


class PeerError(RuntimeError):
    """Another rank ended with an error of a kind that this project does not know.

    Args:
        message: The error of that rank, in one line.
        trace: Its traceback.
    """

    def __init__(self, message: str, trace: str = "") -> None:
        super().__init__(message)
        self.trace = trace


class Stopped(Exception):
    """The run was interrupted by a signal, and what it had learned is saved.

    Args:
        number: The signal, 0 where another rank received it.
    """

    def __init__(self, number: int) -> None:
        super().__init__(Signals(number).name if number else "another process")
        self.signal = number


class PeerFailed(Exception):
    """Another rank has failed; `distributed.agree_on` turns this into the error that all ranks end with.

    Args:
        failure: What the other rank reported; None where it is not known yet.
    """

    def __init__(self, failure: Any = None) -> None:
        super().__init__(failure.message if failure is not None else "another rank has failed")
        self.failure = failure


LINES = (StarvationError, CheckpointError, EngineError, EngineMismatchError, NonFiniteError)
"""Errors whose message says all: no traceback is printed."""


def exit_code(error: BaseException) -> int:
    """The exit code of a process that ends with an error: 2 for bad input, 128 + number for a signal, else 1."""
    if isinstance(error, Stopped):
        return 128 + (error.signal or SIGTERM)
    if isinstance(error, KeyboardInterrupt):
        return 130
    return 2 if isinstance(error, UserError) else 1


def explanation(error: BaseException) -> str:
    """What is printed of an error: its message in one line, above it the traceback where the message is not enough.

    Empty for an interruption, which its own message has explained.
    """
    if isinstance(error, Stopped | KeyboardInterrupt):
        return ""
    message = one_line(error)
    if isinstance(error, (UserError, *LINES)):
        return f"error: {message}"
    if isinstance(error, PartError | PeerError):
        return f"error: {message}" + (f"\n{error.trace.rstrip()}" if error.trace else "")
    trace = "".join(traceback.format_exception(error)).rstrip()
    if type(error).__name__ == "OutOfMemoryError":  # torch's; where it happened tells what to lower
        return f"{trace}\nerror: {message} {OUT_OF_MEMORY}"
    if isinstance(error, OSError) and "No space left" in message:
        return f"error: {message}: free some space and continue with --ckpt_path last"
    return f"{trace}\nerror: {type(error).__name__}: {message}"


def one_line(error: BaseException) -> str:
    """The message of an error, its lines joined; the name of its class where there is none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "; ".join([*lines, *getattr(error, "__notes__", ())]) or type(error).__name__


def calling(part: object, doing: str, work: Callable[[], T]) -> T:
    """Calls a part that the configuration names; what goes wrong in it is told as its own mistake.

    Args:
        part: The part.
        doing: What it is asked for, such as `score(), problem math500/3`.
        work: The call.

    Raises:
        PartError: The part raised an error that is not one of this project's own.
    """
    try:
        return work()
    except OURS:
        raise
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":
            raise
        raise PartError(
            f"{_name(part)}, {doing}: raised {type(error).__name__}: {one_line(error)}", _trace_of(error)
        ) from error


def returned(part: object, doing: str, what: object, expected: str) -> PartError:
    """The error of a part that returned something wrong."""
    shown = repr(what)
    return PartError(f"{_name(part)}, {doing}: returned {shown[:100]}{'...' * (len(shown) > 100)}; expected {expected}")


OURS = (UserError, *LINES, PartError, PeerError, PeerFailed, Stopped)
"""Errors that a part may raise to say what it means, which are passed on as they are."""


def _name(part: object) -> str:
    return f"{type(part).__module__}.{type(part).__qualname__}"


def _trace_of(error: BaseException) -> str:
    """The traceback from the part's own code on, without the frames of the loop that called it."""
    frames = traceback.extract_tb(error.__traceback__)
    first = next((i for i, frame in enumerate(frames) if not Path(frame.filename).is_relative_to(PACKAGE)), 0)
    return "".join(traceback.format_list(frames[first:]) + traceback.format_exception_only(error))
