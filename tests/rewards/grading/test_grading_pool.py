"""The pool of grading processes: hostile answers, limits, workers that die, threads, forks, and its end."""

import copy
import os
import pickle
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rence_lightning.errors import UserError
from rence_lightning.rewards.grading import pool as pool_module
from rence_lightning.rewards.grading.pool import GraderPool

TOWER = "9^{9^{9^9}}"
HOSTILE = [
    TOWER,
    "10^{10^{10}}",
    "{" * 20_000 + "1" + "}" * 20_000,
    "1" * 1_000_000,
    "\\frac{1}{" * 500 + "2" + "}" * 500,
    "(" * 499 + "1" + ")" * 499,
    "__import__('os').system('touch pwned')",
    "\x00",
    "1\x00\n2\r\n",
    "\ud800",
    b"\xff\xfe1/2".decode("utf-8", "surrogateescape"),
    "}\\boxed{4",
    '"]\n[1.0, false]\n',
]


def gone(pid: int) -> bool:
    """Whether no such process runs, after a short wait; an orphan that nobody reaps counts as ended."""
    stat = Path(f"/proc/{pid}/stat")
    for _ in range(300):
        try:
            os.kill(pid, 0)
            if stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.05)
    return False


def pids(pool: GraderPool) -> list[int]:
    return [worker.process.pid for worker in pool._idle]


def cpu_seconds(pid: int) -> float:
    """CPU time of a running process, as the kernel accounts for it."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@pytest.fixture(scope="module")
def shared() -> Iterator[GraderPool]:
    with GraderPool(workers=1, timeout=0.3) as pool:
        yield pool


@pytest.fixture
def pool(shared: GraderPool) -> GraderPool:
    """A pool with a worker that has started, without cached grades and counts."""
    shared._cache.clear()
    assert shared.grade([("1/2", "0.5")]) == [True]
    shared.figures()
    return shared


def test_hostile_answers_are_wrong_in_bounded_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where the workers start, and so where a command would leave its file
    pairs = [("3", answer) for answer in HOSTILE] + [("1/2", "0.5")]
    with GraderPool(workers=2, timeout=0.3) as pool:
        begin = time.monotonic()
        assert pool.grade(pairs) == [False] * len(HOSTILE) + [True]
        assert time.monotonic() - begin < 90  # at most 13 times 0.3 s of CPU time and workers to start, when busy
        assert pool.timeouts >= 2 and pool.crashes == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc and a limit of the address space")
def test_memory_is_bounded_and_a_worker_near_its_limit_is_replaced(pool: GraderPool) -> None:
    size = int(Path(f"/proc/{pids(pool)[0]}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    with GraderPool(workers=1, timeout=20.0, memory_bytes=size * 3 // 2) as small:
        # A number of a gigabyte that takes little time to compute.
        assert small.grade([("3", "2^{2^{33}}"), ("1/2", "0.5"), ("1/4", "0.5")]) == [False, True, False]
        peak = Path(f"/proc/{pids(small)[0]}/status").read_text().split("VmPeak:")[1].split()[0]
        assert int(peak) <= size * 3 // 2 // 1024
        before = pids(small)
        assert small.grade([("1/8", "0.125")]) == [True] and pids(small) != before
        assert (small.crashes, small.timeouts) == (0, 0)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_the_limit_is_of_cpu_time_and_for_each_answer(pool: GraderPool) -> None:
    """It ends a worker also where the parent ignores its signal. Answers that together take more are all graded."""
    before = signal.signal(signal.SIGPROF, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPROF})
    try:
        with GraderPool(workers=1, timeout=0.5) as other:
            other.grade([("1/2", "0.5")])
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            start = cpu_seconds(pids(other)[0])
            assert other.grade([("3", TOWER)]) == [False]
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            assert 0.4 < after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime - start < 0.8
            assert (other.timeouts, other.crashes) == (1, 0)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
        signal.signal(signal.SIGPROF, before)
    pairs = [(rf"\sqrt{{{n}}}+\sin({n})", rf"\sin({n})+\frac{{2\sqrt{{{n}}}}}{{2}}") for n in range(2, 60)]
    [worker] = pids(pool)
    begin = cpu_seconds(worker)
    assert pool.grade_in_workers(pairs) == [True] * len(pairs)
    assert pids(pool) == [worker] and cpu_seconds(worker) - begin > pool.timeout
    assert pool.timeouts == 0


def test_a_worker_that_gets_no_cpu_is_waited_for_until_the_backstop(
    pool: GraderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker stopped for three times its limit, as on a busy machine, has used no CPU time and still grades."""
    os.kill(pids(pool)[0], signal.SIGSTOP)
    threading.Timer(1.0, os.kill, (pids(pool)[0], signal.SIGCONT)).start()
    begin = time.monotonic()
    assert pool.grade([("1/4", "0.25")]) == [True] and time.monotonic() - begin > 0.9
    assert (pool.timeouts, pool.crashes) == (0, 0)
    monkeypatch.setattr(pool_module, "BACKSTOP", 3.0)
    os.kill(pids(pool)[0], signal.SIGSTOP)
    assert pool.grade([("1/4", "2/8")]) == [False]
    monkeypatch.undo()
    assert pool.grade([("1/4", "2/8"), ("1/5", "0.2")]) == [True, True], "its answer is graded anew"
    assert pool.figures() == {"grading_timeouts": 1.0, "grading_crashes": 0.0}
    assert pool.figures() == {"grading_timeouts": 0.0, "grading_crashes": 0.0}


def test_an_answer_that_ran_out_of_time_is_graded_anew_and_delays_no_other(pool: GraderPool) -> None:
    pairs = [(f"{n}/4", str(n / 4)) for n in range(1, 20)]
    pairs[10:10] = [("3", TOWER), ("3", TOWER)]
    assert pool.grade(pairs) == [answer != TOWER for _, answer in pairs]
    assert pool.timeouts == 1
    [successor] = pids(pool)
    assert pool.grade_in_workers([("1/2", "0.5")]) == [True] and pids(pool) == [successor]
    assert pool.grade([("3", TOWER)]) == [False] and pool.timeouts == 2


def test_order_duplicates_cache_and_no_answer(pool: GraderPool) -> None:
    pairs = [("1/2", "0.5"), ("1/2", "0.7"), ("3", "3"), ("1/2", None), ("3", "4"), ("1/2", "2/4")] * 20
    expected = [True, False, True, False, False, True] * 20
    assert pool.grade(pairs) == expected
    pool.close()
    assert pool.grade(pairs) == expected
    assert pids(pool) == []  # all from the cache
    assert pool.grade([]) == []


def test_a_worker_killed_at_work_is_replaced_and_one_killed_at_rest_costs_no_answer() -> None:
    with GraderPool(workers=1, timeout=30.0) as pool:
        pool.grade([("1/2", "0.5")])
        [victim] = pids(pool)
        threading.Timer(0.3, os.kill, (victim, signal.SIGKILL)).start()
        assert pool.grade([("3", TOWER), ("1/4", "0.25")]) == [False, True]
        assert (pool.crashes, pool.timeouts) == (1, 0)
        assert gone(victim)
        [victim] = pids(pool)
        os.kill(victim, signal.SIGKILL)
        os.waitid(os.P_PID, victim, os.WEXITED | os.WNOWAIT)
        assert pool.grade([("1/8", "0.125")]) == [True]
        assert pool.crashes == 1


def test_workers_ignore_an_interrupt_and_an_interrupted_batch_leaves_no_stale_reply(pool: GraderPool) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    [pid] = pids(pool)
    os.kill(pid, signal.SIGINT)
    assert pool.grade([("1/4", "0.25")]) == [True] and pids(pool) == [pid]
    assert os.getpgid(pid) != os.getpgid(0)
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with pytest.raises(KeyboardInterrupt):
            pool.grade([("3", TOWER), *((f"1/{n}", f"2/{2 * n}") for n in range(2, 100))])
    finally:
        signal.signal(signal.SIGALRM, before)
    assert pool.grade([("1/4", "2/8"), ("1/4", "0.5")]) == [True, False]


def test_many_threads_share_a_pool_and_close_ends_its_workers() -> None:
    results: dict[int, list[float]] = {}
    pool = GraderPool(workers=2)

    def work(n: int) -> None:
        results[n] = pool.grade([(f"{n}/7", f"{2 * n}/14"), (f"{n}/7", f"{n}/8")])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: [True, False] for n in range(1, 9)}
    children = pids(pool)
    assert len(children) == 2
    pool.close()
    pool.close()
    assert all(gone(pid) for pid in children)


def test_a_fork_and_copies_have_workers_of_their_own(pool: GraderPool) -> None:
    before = pids(pool)
    child = os.fork()
    if child == 0:
        good = pool.grade([("1/4", "0.25")]) == [True] and not set(before) & set(pids(pool))
        pool.close()
        os._exit(0 if good else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert pool.grade([("1/8", "0.125")]) == [True] and pids(pool) == before
    for other in (copy.deepcopy(pool), pickle.loads(pickle.dumps(pool))):
        assert (other.workers, other.timeout, other.memory_bytes) == (1, 0.3, pool.memory_bytes)
        assert pids(other) == []


def test_a_worker_that_cannot_start_is_an_error() -> None:
    with GraderPool(workers=1, memory_bytes=1 << 20) as pool, pytest.raises(RuntimeError, match=r"cannot start: \S"):
        pool.grade([("1/2", "0.5")])


@pytest.mark.parametrize("limits", [{"workers": 0}, {"timeout": 0.0}, {"timeout": float("nan")}, {"memory_bytes": 0}])
def test_impossible_limits_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(UserError, match="positive"):
        GraderPool(**limits)  # type: ignore[arg-type]


def run_script(script: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program in a new process that can import the package, with `cwd` first on its path."""
    (cwd / "program.py").write_text(textwrap.dedent(script))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "program.py"]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_workers_end_with_the_program(tmp_path: Path) -> None:
    """Without a `__main__` guard or a close: no worker imports the script, and none is left behind."""
    result = run_script(
        """
        from rence_lightning.rewards import math_reward, math_equivalent
        assert math_equivalent("1/2", "0.5")
        print(math_reward._default_pool()._idle[0].process.pid)
        """,
        tmp_path,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert gone(int(result.stdout))


def test_workers_end_when_the_program_is_killed(tmp_path: Path) -> None:
    """Both while idle, where they notice that the pipe is closed, and inside an answer that never ends."""
    result = run_script(
        f"""
        import os, threading, time
        from rence_lightning.rewards.grading.pool import GraderPool
        pool = GraderPool(workers=2, timeout=1.0)
        pool.grade([("1/2", "0.5"), ("1/3", "2/6")])
        print(*[worker.process.pid for worker in pool._idle], flush=True)
        threading.Timer(0.3, os.kill, (os.getpid(), 9)).start()
        pool.grade([("3", {TOWER!r})])
        """,
        tmp_path,
    )
    assert result.returncode == -signal.SIGKILL
    assert len(result.stdout.split()) == 2 and all(gone(int(pid)) for pid in result.stdout.split())
