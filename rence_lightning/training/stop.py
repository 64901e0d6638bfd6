"""Interruption by Ctrl-C (SIGINT), or by a scheduler that ends the job (SIGTERM)."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_handlers: list[dict[signal.Signals, Any]] = []  # those from before each run that listens, the outermost first


def _mask(how: int) -> None:
    if _handlers:
        signal.pthread_sigmask(how, SIGNALS)


def _restore_in_fork() -> None:
    """Lets a signal end a forked process, such as one of a reward; it has the pipe, which would tell the run of it."""
    if _handlers:
        signal.set_wakeup_fd(-1)
        for number, handler in _handlers[0].items():
            signal.signal(number, handler)
        _mask(signal.SIG_UNBLOCK)


# Blocked meanwhile: `Process.terminate` may come before the handlers are restored.
block, unblock = partial(_mask, signal.SIG_BLOCK), partial(_mask, signal.SIG_UNBLOCK)
os.register_at_fork(before=block, after_in_parent=unblock, after_in_child=_restore_in_fork)


class StopRequest:
    """Records a signal until the run reaches a point where it can end, and prints at once what the run does until then.

    A second signal ends the process immediately. Signals are read on a background thread, because the main thread may
    compute, or wait in a collective, for minutes.

    Args:
        what_follows: Function that returns the text to print at the first signal: what the run still does, and what a
            second signal would lose.
    """

    def __init__(self, what_follows: Callable[[], str]) -> None:
        self.signal = 0
        self._what_follows = what_follows

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handles the signals within the block. Only the main thread can; on other threads, nothing is changed."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        known = [number for number in SIGNALS if signal.getsignal(number) is not None]  # others cannot be restored
        _handlers.append({number: signal.signal(number, lambda *_: None) for number in known})
        wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        thread = threading.Thread(target=self._read, args=(reader,), name="signals", daemon=True)
        thread.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in _handlers.pop().items():
                signal.signal(number, handler)
            os.close(writer)
            thread.join()
            os.close(reader)

    def _read(self, reader: int) -> None:
        """Reads the numbers of signals, one byte each, which the interpreter writes when a signal arrives."""
        while numbers := os.read(reader, 16):
            for number in numbers:
                if number in SIGNALS:
                    self._receive(number)

    def _receive(self, number: int) -> None:
        if self.signal:
            try:
                print(f"{signal.Signals(number).name} again: stopped", file=sys.stderr, flush=True)
            finally:  # also where nobody reads the output any more
                os._exit(128 + number)
        self.signal = number
        # The run goes on meanwhile, and what is read of it may change; the second signal must still be heard.
        with suppress(OSError, AttributeError):
            if text := self._what_follows():
                print(f"{signal.Signals(number).name}: {text}", file=sys.stderr, flush=True)


def what_follows(trainer: Any) -> str:
    """What the run still does after a first signal, and what a second signal would lose; empty on ranks but zero."""
    if not trainer.is_global_zero:
        return ""
    iteration, lost = trainer.current_epoch + 1, ""
    doing = {"rollouts": f"the rollouts of iteration {iteration}", "evaluation": "the evaluation"}
    now = f"ending {doing.get(trainer.doing, 'the run')}"
    if trainer.doing == "updates" and trainer.batch is not None:
        of = f"{trainer.progress[1] + 1} of {len(trainer.batch.updates)}"
        now, lost = f"finishing update {of} of iteration {iteration}", " and lose the iteration"
    then = "then saving" if trainer.training else "the finished samples are kept"
    return f"{now}, {then} (again to stop now{lost})"
