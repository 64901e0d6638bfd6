"""Being told to stop: by Ctrl-C (SIGINT) or by a scheduler that takes the machine back (SIGTERM)."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """The run was told to stop; what it has learned is saved.

    Attributes:
        signal: The number of the signal, 0 where another rank was told.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name if number else "another process")
        self.signal = number


class StopRequest:
    """Remembers a signal until the run is at a place where it can stop; a second one stops it at once."""

    def __init__(self) -> None:
        self.signal = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes the signals over. Only the main thread can; elsewhere they do what they did."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._remember) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number
