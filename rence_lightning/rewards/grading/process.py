"""One grading worker as its parent sees it: a child process, two pipes and a deadline."""

import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, BinaryIO, cast

START_SECONDS = 120.0
"""A worker imports sympy before it reports: half a second on an idle machine, far more from a cold network disk."""

_MODULE = "rence_lightning.rewards.grading.worker"


class WorkerProcess:
    """A running worker.

    Args:
        timeout: Wall-clock seconds for each answer.
        memory_bytes: Limit of its address space.

    Attributes:
        starting: True until it has reported that it is ready.
        task: Index of the pair it is judging, None when it judges none.
        deadline: `time.monotonic()` at which it has overrun; infinite while it rests.
    """

    def __init__(self, timeout: float, memory_bytes: int) -> None:
        self._timeout = timeout
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the worker; a file cannot fill up as a pipe does)
        self._buffer = b""
        # The worker's own alarm comes well after the parent's, who counts and replaces; see `worker._arm`.
        limits = [str(memory_bytes), str(2 * timeout + 1)]
        # -P: a file named sympy.py in the current directory is not what the worker should import.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", _MODULE, *limits],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
            env=_environment(),
            start_new_session=True,  # out of the terminal's group, whose Ctrl-C is the parent's alone
        )
        self.starting = True
        self.task: int | None = None
        self.deadline = time.monotonic() + START_SECONDS

    @property
    def pid(self) -> int:
        """The operating system's number of the process."""
        return self._process.pid

    @property
    def command(self) -> str:
        """How the worker was started, for error messages."""
        return f"{sys.executable} -m {_MODULE}"

    @property
    def stdout(self) -> BinaryIO:
        """The pipe its replies come from."""
        return cast(BinaryIO, self._process.stdout)

    @property
    def idle(self) -> bool:
        """Whether it is ready for a pair."""
        return not self.starting and self.task is None

    def send(self, task: int, pair: tuple[str, str]) -> bool:
        """Give it a pair and start the clock; False when the worker turns out to be dead."""
        request = json.dumps({"gold": pair[0], "prediction": pair[1]}).encode("ascii") + b"\n"
        # Busy before the first byte leaves: an interrupt in between must not let the reply pass for another pair's.
        self.task = task
        self.deadline = time.monotonic() + self._timeout
        try:
            view = memoryview(request)
            while view:
                view = view[cast(BinaryIO, self._process.stdin).write(view) :]
        except BrokenPipeError:
            self.rest()
            return False
        return True

    def receive(self) -> dict[str, Any] | None:
        """Read what has arrived; None while a message is not complete.

        Raises:
            EOFError: If the worker has ended.
        """
        chunk = os.read(self.stdout.fileno(), 1 << 16)
        if not chunk:
            raise EOFError
        line, newline, rest = (self._buffer + chunk).partition(b"\n")
        self._buffer = rest if newline else line
        return cast(dict[str, Any], json.loads(line)) if newline else None

    def rest(self) -> None:
        """Be without a task."""
        self.task = None
        self.deadline = math.inf

    def last_error(self) -> str:
        """The last line that the worker printed on its stderr while it started."""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def kill(self) -> None:
        """Kill it and wait until it is gone; harmless when it is gone already."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Kill it and close the files of this end."""
        self.kill()
        self.abandon()

    def abandon(self) -> None:
        """Close the files of this end, and leave the process to whom it belongs."""
        for file in (self._process.stdin, self._process.stdout, self._errors):
            with contextlib.suppress(OSError):
                cast(BinaryIO, file).close()


def _environment() -> dict[str, str]:
    """The parent's environment, so changed that a worker imports the same code and computes on one thread.

    A fixed hash seed makes sympy's order of terms, and so its verdicts and timings, the same in every worker.
    """
    package_root = str(Path(__file__).resolve().parents[3])
    paths = [str(Path(path).resolve()) for path in sys.path] + [package_root]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "PYTHONHASHSEED": "0"}
