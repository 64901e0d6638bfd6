"""Judges answers in processes that can be killed.

Computer algebra on model output is bounded neither in time nor in memory (`9^{9^{9^9}}`). An alarm signal works on the
main thread only and cannot interrupt arithmetic on huge integers, and a thread cannot be stopped. Judgements therefore
run in small processes that are started by `exec`: they do not inherit torch's threads and locks, as after `fork`, and
do not import the parent's `__main__` again, as multiprocessing's `spawn` does. For POSIX systems.

No library gives these guarantees. `pebble` 5.2 starts its workers through multiprocessing, so that `spawn` runs the
parent's `__main__`, it limits wall-clock time only, and its pool fails in a forked child. `loky` 3.7 has no limit for a
single task, and its executor is broken once a worker dies.
"""

import math
import os
import selectors
import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Literal, get_args

from rence_lightning.errors import UserError
from rence_lightning.rewards.grading.equivalence import quick_verdict
from rence_lightning.rewards.grading.process import WorkerProcess

Pair = tuple[str, str]
Judge = Literal["rules", "math_verify"]
AnyJudge = Judge | Literal["gym"]

CACHE_SIZE = 20_000
"""Number of verdicts that are kept: a few MB of ordinary answers. The least recently used ones are dropped first."""

START_ATTEMPTS = 3
"""Number of workers in a row that may fail to start before the pool gives up."""


class GraderPool:
    """Worker processes that tell whether two answers are equal; usable from any thread, one batch at a time.

    The pool starts its workers when the first answer needs one, and ends them at `close()`, at the end of a `with`
    block or at the interpreter's exit. A closed pool starts new workers when it is used again, and a copied or
    unpickled pool has none at first. A process that is forked from this one gets workers of its own.

    Args:
        workers: Number of processes. A typical answer takes 2 to 60 ms in one.
        timeout: Seconds of its worker's CPU time that an answer may take, so that a busy machine changes no verdict.
            The kernel ends a worker that takes more, and so does the pool after 20 times as long on the clock. The
            answer is then wrong in this batch, and judged anew when it comes again.
        memory_bytes: Limit of a worker's address space, which is about 70 MB when idle.
        judge: Judge of answers: `rules`, the checks of `rence_lightning.rewards.grading.equivalence` around
            math-verify; `math_verify` alone; or `gym`, the grading of reasoning-gym, for which the first of a pair is
            a problem of `GymProblems` as JSON.

    Attributes:
        timeouts: Number of judgements that ended at the limit of time.
        crashes: Number of judgements during which the worker died.

    Raises:
        UserError: If a limit is not positive and finite, or the judge is unknown.
    """

    def __init__(
        self, workers: int = 2, timeout: float = 1.0, memory_bytes: int = 2 << 30, judge: AnyJudge = "rules"
    ) -> None:
        if workers < 1 or memory_bytes < 1 or not 0 < timeout < math.inf:
            limits = f"workers={workers}, timeout={timeout}, memory_bytes={memory_bytes}"
            raise UserError(f"reward: {limits}: all must be positive, and finite")
        if judge not in (*get_args(Judge), "gym"):
            raise UserError(f"reward: judge is {judge!r}; it must be one of {', '.join(get_args(Judge))}")
        self.workers, self.timeout, self.memory_bytes = workers, timeout, memory_bytes
        self.kind: AnyJudge = judge
        self.timeouts = 0
        self.crashes = 0
        self._cache: OrderedDict[Pair, float] = OrderedDict()
        self._reset()

    def _reset(self) -> None:
        """Start with no worker, in the process that calls this."""
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._processes: list[WorkerProcess] = []
        self._failed_starts = 0
        # It refers to the list and not to the pool, which may thus be collected. It also runs at exit.
        self._finalizer = weakref.finalize(self, _end, self._processes, self._owner)

    def _after_fork(self) -> None:
        """Give up the parent's workers in a forked child: two readers of one pipe would each get parts of a reply."""
        if self._owner != os.getpid():
            self._finalizer.detach()
            for process in self._processes:
                process.abandon()
            self._reset()

    def __reduce__(self) -> tuple[type["GraderPool"], tuple[int, float, int, str]]:
        return GraderPool, (self.workers, self.timeout, self.memory_bytes, self.kind)

    def __enter__(self) -> "GraderPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all workers and wait for their end."""
        self._after_fork()
        with self._lock:
            _end(self._processes, self._owner)

    def judge(self, pairs: Sequence[Pair]) -> list[bool]:
        """Tell for each `(gold, prediction)` whether they are equal, in order.

        Simple pairs are decided here and known ones by the cache; the workers judge the others, each distinct pair
        once. A judgement that the limit of time or a crash ended is not kept, because its cause may not have been the
        answer.

        Raises:
            RuntimeError: If no worker can be started at all (a broken installation, never a bad answer).
        """
        return [bool(verdict) for verdict in self.grade(pairs)]

    def grade(self, pairs: Sequence[Pair]) -> list[float]:
        """Score each `(gold, prediction)` from 0 to 1, in order; see `judge`. Only the judge `gym` gives part of 1."""
        self._after_fork()
        quick = quick_verdict if self.kind == "rules" else _unknown
        verdicts: dict[Pair, float | None] = {pair: quick(*pair) for pair in dict.fromkeys(pairs)}
        with self._lock:
            hard = [pair for pair, verdict in verdicts.items() if verdict is None and not self._recall(pair, verdicts)]
            for pair, verdict in zip(hard, self._run(hard), strict=True):
                verdicts[pair] = verdict
                if verdict is not None:
                    self._remember(pair, verdict)
        return [float(verdicts[pair] or 0.0) for pair in pairs]

    def judge_in_workers(self, pairs: Sequence[Pair]) -> list[float | None]:
        """Judge in the workers alone, without shortcuts and cache.

        Returns:
            One verdict per pair, in order; None where the limit of time or a crash ended the judgement.

        Raises:
            RuntimeError: As `judge`.
        """
        self._after_fork()
        with self._lock:
            return self._run(pairs)

    def _recall(self, pair: Pair, verdicts: dict[Pair, float | None]) -> bool:
        if pair not in self._cache:
            return False
        self._cache.move_to_end(pair)
        verdicts[pair] = self._cache[pair]
        return True

    def _remember(self, pair: Pair, verdict: float) -> None:
        self._cache[pair] = verdict
        if len(self._cache) > CACHE_SIZE:
            self._cache.popitem(last=False)

    def _run(self, pairs: Sequence[Pair]) -> list[float | None]:
        """Run the event loop, which keeps every worker busy until all pairs have been judged."""
        verdicts: list[float | None] = [None] * len(pairs)
        waiting = deque(range(len(pairs)))
        try:
            while waiting or self._busy():
                self._staff(len(waiting) + len(self._busy()))
                for process in [p for p in self._processes if p.idle]:
                    self._assign(process, waiting, pairs)
                for process in self._readable():
                    self._receive(process, verdicts)
                for process in [p for p in self._processes if p.deadline <= time.monotonic()]:
                    self._expire(process)
        finally:
            # After an interrupt a busy worker will still reply, which the next batch would take for a reply to it.
            self._drop(self._busy())
        self._staff(min(self.workers, len(pairs)))  # so that the next batch need not wait for them
        return verdicts

    def _busy(self) -> list[WorkerProcess]:
        return [process for process in self._processes if process.task is not None]

    def _staff(self, tasks: int) -> None:
        for _ in range(min(self.workers, tasks) - len(self._processes)):
            try:
                self._processes.append(WorkerProcess(self.timeout, self.memory_bytes, self.kind))
            except OSError as error:
                raise RuntimeError(f"a grading worker cannot start: {error}") from error

    def _assign(self, process: WorkerProcess, waiting: deque[int], pairs: Sequence[Pair]) -> None:
        if not waiting:
            return
        task = waiting.popleft()
        if not process.send(task, pairs[task]):  # it died while idle: another worker gets the task
            waiting.appendleft(task)
            self._drop([process])

    def _readable(self) -> list[WorkerProcess]:
        """Wait for a reply, the end of a worker, or the next deadline."""
        if not self._processes:
            return []
        with selectors.DefaultSelector() as selector:
            for process in self._processes:
                selector.register(process.stdout, selectors.EVENT_READ, process)
            seconds = min(process.deadline for process in self._processes) - time.monotonic()
            return [key.data for key, _ in selector.select(max(0.0, seconds))]

    def _receive(self, process: WorkerProcess, verdicts: list[float | None]) -> None:
        try:
            message = process.receive()
        except EOFError:
            if process.starting:
                self._fail_start(process, "it ended")
            elif process.task is not None and process.used_up_its_time():
                self.timeouts += 1
            elif process.task is not None:
                self.crashes += 1
            self._drop([process])
            return
        if message is None:
            return
        if process.starting:
            process.starting = False
            self._failed_starts = 0
        elif process.task is not None:
            verdicts[process.task] = message["equal"]
        process.rest()
        if message.get("retire"):
            self._drop([process])

    def _expire(self, process: WorkerProcess) -> None:
        """Give up a worker at its wall-clock deadline."""
        if process.starting:
            self._fail_start(process, "it did not report in time")
        elif process.task is not None:
            self.timeouts += 1
        self._drop([process])

    def _fail_start(self, process: WorkerProcess, how: str) -> None:
        self._failed_starts += 1
        if self._failed_starts >= START_ATTEMPTS:
            self._failed_starts = 0
            process.kill()
            cause = process.last_error() or "it printed no error"
            self._drop(list(self._processes))
            raise RuntimeError(f"a grading worker ({process.command}) cannot start: {how}: {cause}")

    def _drop(self, processes: Iterable[WorkerProcess]) -> None:
        for process in processes:
            self._processes.remove(process)
            process.close()


def _unknown(gold: str, prediction: str) -> None:
    """Leave a pair to the workers."""


def _end(processes: list[WorkerProcess], owner: int) -> None:
    """Kill the workers, except at the exit of a forked child, which must not touch those of its parent."""
    if os.getpid() == owner:
        while processes:
            processes.pop().close()
