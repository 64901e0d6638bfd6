"""The limit of an answer counts the worker's CPU time, with a far limit on the clock, and its verdict is not kept."""

import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rence_lightning.rewards.grading.pool import GraderPool
from rence_lightning.rewards.grading.process import BACKSTOP

TOWER = "9^{9^{9^9}}"


@pytest.fixture
def pool() -> Iterator[GraderPool]:
    with GraderPool(workers=1, timeout=0.3) as pool:
        assert pool.judge([("1/2", "0.5")]) == [True]
        yield pool


def pid_of(pool: GraderPool) -> int:
    [process] = pool._processes
    return process.pid


def cpu_seconds(pid: int) -> float:
    """CPU time of a running process, as the kernel accounts for it."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def test_a_worker_that_gets_no_cpu_is_waited_for(pool: GraderPool) -> None:
    """A worker stopped for five times its limit, as on a busy machine, has used no CPU time and still judges."""
    os.kill(pid_of(pool), signal.SIGSTOP)
    threading.Timer(1.5, os.kill, (pid_of(pool), signal.SIGCONT)).start()
    begin = time.monotonic()
    assert pool.judge([("1/4", "0.25")]) == [True]
    assert time.monotonic() - begin > 1.4
    assert (pool.timeouts, pool.crashes) == (0, 0)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_worker_is_ended_at_its_limit_of_cpu_time() -> None:
    with GraderPool(workers=1, timeout=1.0) as pool:
        pool.judge([("1/2", "0.5")])
        start = cpu_seconds(pid_of(pool))
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert pool.judge([("3", TOWER)]) == [False]
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime - start
        assert 0.9 < spent < 1.3
        assert (pool.timeouts, pool.crashes) == (1, 0)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_the_limit_is_for_each_answer(pool: GraderPool) -> None:
    """Answers that together take more than the limit are all judged, by one worker."""
    pairs = [(rf"\sqrt{{{n}}}+\sin({n})", rf"\sin({n})+\frac{{2\sqrt{{{n}}}}}{{2}}") for n in range(2, 60)]
    worker = pid_of(pool)
    begin = cpu_seconds(worker)
    assert pool.judge_in_workers(pairs) == [True] * len(pairs)
    assert pid_of(pool) == worker
    assert cpu_seconds(worker) - begin > pool.timeout
    assert pool.timeouts == 0


def test_a_stopped_worker_is_given_up_and_its_answer_judged_anew(pool: GraderPool) -> None:
    os.kill(pid_of(pool), signal.SIGSTOP)
    begin = time.monotonic()
    assert pool.judge([("1/4", "0.25"), ("1/5", "0.2")]) == [False, True]
    assert time.monotonic() - begin > 0.9 * BACKSTOP * 0.3
    assert (pool.timeouts, pool.crashes) == (1, 0)
    assert pool.judge([("1/4", "0.25")]) == [True]
    assert pool.timeouts == 1


def test_an_answer_that_ran_out_of_time_is_judged_anew(pool: GraderPool) -> None:
    assert pool.judge([("3", TOWER), ("3", TOWER)]) == [False, False]
    assert pool.timeouts == 1
    assert pool.judge([("3", TOWER)]) == [False]
    assert pool.timeouts == 2
    assert pool.judge_in_workers([("3", TOWER), ("3", "9/3")]) == [None, True]


def test_the_limit_holds_where_the_parent_ignores_its_signal() -> None:
    before = signal.signal(signal.SIGPROF, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPROF})
    try:
        with GraderPool(workers=1, timeout=1.0) as pool:
            begin = time.monotonic()
            assert pool.judge([("3", TOWER)]) == [False]
            assert time.monotonic() - begin < BACKSTOP
            assert (pool.timeouts, pool.crashes) == (1, 0)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
        signal.signal(signal.SIGPROF, before)
