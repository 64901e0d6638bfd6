"""One grading worker as its parent sees it: a child process, two pipes and two limits of time."""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, BinaryIO, cast

START_SECONDS = 120.0
"""Wall-clock limit of a worker's start, in which it imports sympy: half a second on an idle machine, and far more from
a cold network disk."""

BACKSTOP = 20.0
"""Wall-clock limit of an answer, as a multiple of its limit of CPU time. It ends a worker that does not run at all, for
example a stopped one; a busy machine does not reach it."""

_MODULE = "rence_lightning.rewards.grading.worker"


class WorkerProcess:
    """A running worker.

    Args:
        timeout: Seconds of the worker's CPU time for each answer.
        memory_bytes: Limit of its address space.
        judge: Judge of answers, as in `GraderPool`.

    Attributes:
        starting: Whether it has not yet reported that it is ready.
        task: Index of the pair that it judges, or None while it judges none.
        deadline: Value of `time.monotonic()` at which its parent gives it up; infinite while it judges nothing.
    """

    def __init__(self, timeout: float, memory_bytes: int, judge: str) -> None:
        self._timeout = timeout
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the worker; a pipe could fill up)
        self._buffer = b""
        # -P: a file named sympy.py in the current directory is not what the worker should import.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", _MODULE, str(memory_bytes), str(timeout), judge],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
            env=_environment(),
            start_new_session=True,  # a Ctrl-C at the terminal reaches the parent alone
        )
        self.starting = True
        self.task: int | None = None
        self.deadline = time.monotonic() + START_SECONDS

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def command(self) -> str:
        """Command that started the worker, for error messages."""
        return f"{sys.executable} -m {_MODULE}"

    @property
    def stdout(self) -> BinaryIO:
        """Pipe from which its replies come."""
        return cast(BinaryIO, self._process.stdout)

    @property
    def idle(self) -> bool:
        """Whether it is ready for a pair."""
        return not self.starting and self.task is None

    def send(self, task: int, pair: tuple[str, str]) -> bool:
        """Send it a pair and set its deadline.

        Returns:
            Whether the worker took the pair; False when it has died.
        """
        request = json.dumps({"gold": pair[0], "prediction": pair[1]}).encode("ascii") + b"\n"
        # It counts as busy before the first byte is written, so that after an interrupt here its reply is not taken for
        # that of another pair.
        self.task = task
        self.deadline = time.monotonic() + BACKSTOP * self._timeout
        try:
            view = memoryview(request)
            while view:
                view = view[cast(BinaryIO, self._process.stdin).write(view) :]
        except BrokenPipeError:
            self.rest()
            return False
        return True

    def receive(self) -> dict[str, Any] | None:
        """Read what has arrived.

        Returns:
            A message, or None while it is not complete.

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
        """Clear the task and its deadline."""
        self.task = None
        self.deadline = math.inf

    def used_up_its_time(self) -> bool:
        """Whether the kernel has ended the worker at its limit of CPU time. To be called after `EOFError`."""
        try:
            return self._process.wait(timeout=1.0) == -signal.SIGPROF
        except subprocess.TimeoutExpired:
            return False

    def last_error(self) -> str:
        """The last line that the worker printed on its stderr while it started."""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def kill(self) -> None:
        """Kill it and wait for its end; without effect when it has ended already."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Kill it and close the files of this end."""
        self.kill()
        self.abandon()

    def abandon(self) -> None:
        """Close the files of this end and leave the process to the parent that started it."""
        for file in (self._process.stdin, self._process.stdout, self._errors):
            with contextlib.suppress(OSError):
                cast(BinaryIO, file).close()


def _environment() -> dict[str, str]:
    """The parent's environment, changed so that a worker imports the same code and computes on one thread.

    A fixed hash seed makes sympy's order of terms, and so its verdicts and timings, the same in every worker.
    """
    package_root = str(Path(__file__).resolve().parents[3])
    paths = [str(Path(path).resolve()) for path in sys.path] + [package_root]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "PYTHONHASHSEED": "0"}
