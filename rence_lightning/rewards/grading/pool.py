"""Grades answers in processes that can be killed.

Computer algebra on model output is bounded neither in time nor in memory (`9^{9^{9^9}}`). An alarm signal works on the
main thread only and cannot interrupt arithmetic on huge integers, and a thread cannot be stopped. Answers are therefore
graded in small processes that are started by `exec`: they do not inherit torch's threads and locks, as after `fork`,
and do not import the parent's `__main__` again, as multiprocessing's `spawn` does. For POSIX systems.
"""

import contextlib
import json
import math
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any, Literal, cast, get_args

from rence_lightning.errors import UserError
from rence_lightning.parts import python_process
from rence_lightning.rewards.grading.equivalence import quick_verdict

Pair = tuple[str, str | None]
"""A reference and an answer, or None for no answer."""

Judge = Literal["rules", "math_verify"]

CACHE_SIZE = 20_000
"""Number of grades that are kept: a few MB of ordinary answers. The oldest ones are dropped first."""

START_SECONDS = 120.0
"""Wall-clock limit of a worker's start, in which it imports sympy: half a second on an idle machine, and far more from
a cold network disk."""

BACKSTOP = 20.0
"""Wall-clock limit of an answer, as a multiple of its limit of CPU time. It ends a worker that does not run at all, for
example a stopped one; a busy machine does not reach it."""


class Worker:
    """A grading process as its parent sees it; for the arguments see `GraderPool`."""

    def __init__(self, timeout: float, memory_bytes: int, judge: str) -> None:
        module = "rence_lightning.rewards.grading.worker"
        command, environment = python_process(module, str(memory_bytes), str(timeout), judge)
        self._timeout, self._started = timeout, False
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the worker; a pipe could fill up)
        self.process = subprocess.Popen(
            command,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            start_new_session=True,  # a Ctrl-C at the terminal reaches the parent alone
        )

    def ready(self) -> bool:
        """Waits until it can grade; False where it did not start, or died meanwhile."""
        if self._started:
            return self.process.poll() is None
        with contextlib.suppress(EOFError, TimeoutError):
            self._exchange(b"", START_SECONDS)
            self._started = True
        return self._started

    def ask(self, pair: Pair) -> tuple[float, bool]:
        """Waits for the grade of a pair, and for whether the worker wants to be replaced.

        Raises:
            TimeoutError: The worker used up its CPU time, or `BACKSTOP` times as long on the clock.
            EOFError: It died.
        """
        return tuple(self._exchange(json.dumps(pair).encode("ascii") + b"\n", BACKSTOP * self._timeout))

    def _exchange(self, request: bytes, seconds: float) -> Any:
        end = time.monotonic() + seconds
        timer = threading.Timer(seconds, self.process.kill)  # which also unblocks both pipes
        timer.daemon = True
        timer.start()
        line = b""
        with contextlib.suppress(BrokenPipeError):
            while request:
                request = request[cast(IO[bytes], self.process.stdin).write(request) :]
            line = cast(IO[bytes], self.process.stdout).readline()
        timer.cancel()
        if line.endswith(b"\n"):
            return json.loads(line)
        self.process.kill()
        out_of_time = self.process.wait() == -signal.SIGPROF or time.monotonic() >= end
        raise TimeoutError if out_of_time else EOFError

    def last_error(self) -> str:
        """The last line that it printed on its stderr while it started."""
        self._errors.seek(0)
        return (self._errors.read().decode(errors="replace").strip().splitlines() or ["it printed no error"])[-1]

    def close(self) -> None:
        """Kills it, waits for its end and closes the files of this end."""
        self.process.kill()
        self.process.wait()
        for file in (self.process.stdin, self.process.stdout, self._errors):
            cast(IO[bytes], file).close()


class GraderPool(contextlib.AbstractContextManager["GraderPool"]):
    """Worker processes that grade pairs of a reference and an answer; usable from any thread, one batch at a time.

    The pool starts its workers when the first pair needs one. They end at `close()`, at the end of a `with` block, and
    where the pool or its program ends. A closed pool starts new workers when it is used again, and a copied or
    unpickled pool, or the one in a forked process, has workers of its own.

    Args:
        workers: Number of processes. A typical answer takes 2 to 60 ms in one.
        timeout: Seconds of its worker's CPU time that an answer may take, so that a busy machine changes no grade. The
            kernel ends a worker that takes more. The answer then has 0 in this batch, and is graded anew when it comes
            again.
        memory_bytes: Limit of a worker's address space, which is about 70 MB when idle.
        judge: Judge of answers: `rules`, the checks of `rence_lightning.rewards.grading.equivalence` around
            math-verify; `math_verify` alone; or `gym`, the one of `rence_lightning.rewards.gym`.

    Attributes:
        timeouts: Number of answers that ended at the limit of time since the last call of `figures`.
        crashes: Number of answers during which the worker died since then.

    Raises:
        UserError: A limit is not positive and finite, or the judge is unknown.
    """

    def __init__(
        self, workers: int = 2, timeout: float = 1.0, memory_bytes: int = 2 << 30, judge: str = "rules"
    ) -> None:
        if workers < 1 or memory_bytes < 1 or not 0 < timeout < math.inf:
            limits = f"workers={workers}, timeout={timeout}, memory_bytes={memory_bytes}"
            raise UserError(f"reward: {limits}: all must be positive, and finite")
        if judge not in (*get_args(Judge), "gym"):
            raise UserError(f"reward: judge is {judge!r}; it must be one of {', '.join(get_args(Judge))}")
        self.workers, self.timeout, self.memory_bytes, self.judge = workers, timeout, memory_bytes, judge
        self.timeouts = self.crashes = 0
        self._cache: dict[Pair, float] = {}
        self._reset()

    def _reset(self) -> None:
        """Starts with no worker: two readers of one pipe, here and in the parent, would each get parts of a reply."""
        self._owner, self._lock = os.getpid(), threading.Lock()
        self._idle: list[Worker] = []

    def __reduce__(self) -> tuple[type["GraderPool"], tuple[int, float, int, str]]:
        return GraderPool, (self.workers, self.timeout, self.memory_bytes, self.judge)

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all workers and waits for their end."""
        if self._owner == os.getpid():
            with self._lock:
                while self._idle:
                    self._idle.pop().close()

    def figures(self) -> dict[str, float]:
        """The number of answers that took too long, and of workers that died, since the last call."""
        counts = {"grading_timeouts": float(self.timeouts), "grading_crashes": float(self.crashes)}
        self.timeouts = self.crashes = 0
        return counts

    def grade(self, pairs: Sequence[Pair]) -> list[float]:
        """The grade of each answer from 0 to 1, in order; only the judge `gym` gives part of 1. No answer has 0.

        Simple pairs are decided here and known ones by the cache. The workers grade the others, each distinct pair
        once.

        Raises:
            RuntimeError: No worker can be started at all (a broken installation, never a bad answer).
        """
        grades = {pair: self._known(*pair) for pair in pairs}
        hard = [pair for pair, grade in grades.items() if grade is None]
        grades.update(zip(hard, self.grade_in_workers(hard), strict=True))
        with self._lock:  # what a limit or a crash ended is not kept: it may have another cause than the answer
            self._cache.update({pair: grade for pair in hard if (grade := grades[pair]) is not None})
            while len(self._cache) > CACHE_SIZE:
                del self._cache[next(iter(self._cache))]
        return [grades[pair] or 0.0 for pair in pairs]

    def _known(self, gold: str, answer: str | None) -> float | None:
        quick = False if answer is None else quick_verdict(gold, answer) if self.judge == "rules" else None
        return self._cache.get((gold, answer)) if quick is None else float(quick)

    def grade_in_workers(self, pairs: Sequence[Pair]) -> list[float | None]:
        """The grades by the workers alone, in order; None where the limit of time or a crash ended the work."""
        if self._owner != os.getpid():  # in a forked process
            self._reset()
        if not pairs:
            return []
        # After an interrupt, `map` begins no other pair, and those in work are waited for.
        with self._lock, ThreadPoolExecutor(min(self.workers, len(pairs))) as threads:
            outcomes = list(threads.map(self._ask, pairs))
        self.timeouts += outcomes.count("timeout")
        self.crashes += outcomes.count("crash")
        return [None if isinstance(outcome, str) else outcome for outcome in outcomes]

    def _ask(self, pair: Pair) -> float | str:
        """The grade of a pair by a worker that no other thread uses, or what ended its work."""
        worker = self._take()
        outcome: float | str
        try:
            outcome, retire = worker.ask(pair)
        except (TimeoutError, EOFError) as error:
            outcome, retire = "timeout" if isinstance(error, TimeoutError) else "crash", True
        if retire:
            worker.close()
            worker = Worker(self.timeout, self.memory_bytes, self.judge)  # so that the next answer need not wait for it
        self._idle.append(worker)
        return outcome

    def _take(self) -> Worker:
        for _ in range(self.workers + 3):  # idle ones may have died, and a start may fail
            try:
                worker = self._idle.pop()
            except IndexError:
                worker = Worker(self.timeout, self.memory_bytes, self.judge)
            if worker.ready():
                return worker
            cause = worker.last_error()
            worker.close()
        raise RuntimeError(f"a grading worker cannot start: {cause}")
