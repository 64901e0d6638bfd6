"""The pool of grading processes: hostile answers, workers that die, threads, forks and the end of the program."""

import copy
import os
import pickle
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
from rence_lightning.rewards.grading.pool import GraderPool

TOWER = "9^{9^{9^9}}"


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
    return [process.pid for process in pool._processes]


@pytest.fixture
def pool() -> Iterator[GraderPool]:
    with GraderPool(workers=1, timeout=1.0) as pool:
        yield pool


@pytest.fixture(scope="module")
def shared_pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GraderPool, Path]]:
    with GraderPool(workers=1, timeout=1.0) as pool:
        yield pool, tmp_path_factory.mktemp("workers")


@pytest.mark.parametrize(
    "answer",
    [
        TOWER,
        "10^{10^{10}}",
        "100000!!!",
        "{" * 100_000,
        "{" * 20_000 + "1" + "}" * 20_000,
        "1" * 1_000_000,
        "\\frac{1}{" * 500 + "2" + "}" * 500,
        "\\sqrt{" * 120 + "2" + "}" * 120,
        "(" * 499 + "1" + ")" * 499,
        "__import__('os').system('touch pwned')",
        "\\text{__import__('os').system('touch pwned')}",
        "().__class__.__bases__[0].__subclasses__()",
        "\x00",
        "1\x00\n2\r\n",
        "\ud800",
        b"\xff\xfe1/2".decode("utf-8", "surrogateescape"),
        "}\\boxed{4",
        '"}\n{"equal": true}\n',
    ],
    ids=lambda answer: ascii(answer[:24]),
)
def test_a_hostile_answer_is_wrong_in_bounded_time(
    shared_pool: tuple[GraderPool, Path], answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, folder = shared_pool
    monkeypatch.chdir(folder)  # where the workers start, and so where a command would leave its file
    begin = time.monotonic()
    assert pool.judge([("3", answer)]) == [False]
    assert pool.judge_in_workers([("3", answer)])[0] in (False, None)
    assert time.monotonic() - begin < 45  # twice the wall-clock limit, and the start of workers on a busy machine
    assert pool.judge([("1/2", "0.5")]) == [True]
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc and a limit of the address space")
def test_memory_is_bounded() -> None:
    with GraderPool(workers=1, timeout=20.0, memory_bytes=300 << 20) as pool:
        # A number of a gigabyte that takes little time to compute.
        assert pool.judge([("3", "2^{2^{33}}"), ("1/2", "0.5")]) == [False, True]
        for pid in pids(pool):
            peak = Path(f"/proc/{pid}/status").read_text().split("VmPeak:")[1].split()[0]
            assert int(peak) <= 300 << 10


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_a_worker_near_its_memory_limit_is_replaced() -> None:
    with GraderPool(workers=1) as pool:
        assert pool.judge([("1/2", "0.5")]) == [True]
        size = int(Path(f"/proc/{pids(pool)[0]}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    with GraderPool(workers=1, memory_bytes=size * 3 // 2) as pool:
        assert pool.judge([("1/2", "0.5"), ("1/4", "0.25"), ("1/4", "0.5")]) == [True, True, False]
        assert (pool.crashes, pool.timeouts) == (0, 0)
        (successor,) = pids(pool)
        assert pool.judge([("1/8", "0.125")]) == [True]
        assert pids(pool) != [successor]


def test_the_successor_of_a_killed_worker_starts_at_once() -> None:
    with GraderPool(workers=1, timeout=0.3) as pool:
        assert pool.judge([("3", TOWER)]) == [False]
        (successor,) = pids(pool)
        assert pool.judge([("1/2", "0.5")]) == [True]
        assert pids(pool) == [successor]


def test_one_hostile_answer_among_good_ones() -> None:
    pairs = [(f"{n}/4", str(n / 4)) for n in range(1, 51)]
    pairs.insert(20, ("3", TOWER))
    with GraderPool(workers=2, timeout=1.0) as pool:
        assert pool.judge(pairs) == [pair[1] != TOWER for pair in pairs]
        assert (pool.timeouts, pool.crashes) == (1, 0)


def test_order_duplicates_and_cache(pool: GraderPool) -> None:
    pairs = [("1/2", "0.5"), ("1/2", "0.7"), ("3", "3"), ("1/2", "0.5"), ("3", "4"), ("1/2", "2/4")] * 20
    expected = [True, False, True, True, False, True] * 20
    assert pool.judge(pairs) == expected
    pool.close()
    assert pool.judge(pairs) == expected
    assert pids(pool) == []  # all from the cache
    assert pool.judge([]) == []


def test_a_worker_killed_at_work_is_replaced() -> None:
    with GraderPool(workers=1, timeout=30.0) as pool:
        pool.judge([("1/2", "0.5")])
        [victim] = pids(pool)
        timer = threading.Timer(0.3, os.kill, (victim, signal.SIGKILL))
        timer.start()
        assert pool.judge([("3", TOWER), ("1/4", "0.25")]) == [False, True]
        assert (pool.crashes, pool.timeouts) == (1, 0)
        assert gone(victim)


def test_a_worker_killed_at_rest_costs_no_answer(pool: GraderPool) -> None:
    pool.judge([("1/2", "0.5")])
    [victim] = pids(pool)
    os.kill(victim, signal.SIGKILL)
    os.waitid(os.P_PID, victim, os.WEXITED | os.WNOWAIT)
    assert pool.judge([("1/4", "0.25")]) == [True]
    assert pool.crashes == 0


def test_workers_ignore_an_interrupt(pool: GraderPool) -> None:
    pool.judge([("1/2", "0.5")])
    [pid] = pids(pool)
    os.kill(pid, signal.SIGINT)
    assert pool.judge([("1/4", "0.25")]) == [True]
    assert pids(pool) == [pid]
    assert os.getpgid(pid) != os.getpgid(0)


def test_an_interrupted_batch_leaves_no_stale_reply(pool: GraderPool) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    pool.judge([("1/2", "0.5")])
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt):
            pool.judge([("3", TOWER)])
    finally:
        signal.signal(signal.SIGALRM, before)
    assert pool.judge([("1/4", "0.25"), ("1/4", "0.5")]) == [True, False]


def test_close_ends_the_children() -> None:
    pool = GraderPool(workers=2)
    pool.judge([(f"1/{n}", f"2/{2 * n}") for n in range(2, 20)])
    children = pids(pool)
    assert len(children) == 2
    pool.close()
    pool.close()
    assert all(gone(pid) for pid in children)


def test_many_threads_share_a_pool(pool: GraderPool) -> None:
    results: dict[int, list[bool]] = {}

    def work(n: int) -> None:
        results[n] = pool.judge([(f"{n}/7", f"{2 * n}/14"), (f"{n}/7", f"{n}/8")])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: [True, False] for n in range(1, 9)}


def test_a_fork_gets_workers_of_its_own(pool: GraderPool) -> None:
    pool.judge([("1/2", "0.5")])
    before = pids(pool)
    child = os.fork()
    if child == 0:
        good = pool.judge([("1/4", "0.25")]) == [True] and not set(before) & set(pids(pool))
        pool.close()
        os._exit(0 if good else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert pool.judge([("1/8", "0.125")]) == [True]
    assert pids(pool) == before


def test_copies_are_fresh(pool: GraderPool) -> None:
    pool.judge([("1/2", "0.5")])
    for other in (copy.deepcopy(pool), pickle.loads(pickle.dumps(pool))):
        assert (other.workers, other.timeout, other.memory_bytes) == (1, 1.0, pool.memory_bytes)
        assert pids(other) == []


def test_a_worker_that_cannot_start_is_an_error() -> None:
    with GraderPool(workers=1, memory_bytes=1 << 20) as pool, pytest.raises(RuntimeError, match="cannot start"):
        pool.judge([("1/2", "0.5")])


@pytest.mark.parametrize("limits", [{"workers": 0}, {"timeout": 0.0}, {"timeout": float("nan")}, {"memory_bytes": 0}])
def test_impossible_limits_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(UserError, match="positive"):
        GraderPool(**limits)  # type: ignore[arg-type]


def run_script(script: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program in a new process that can import the package, with `cwd` first on its path."""
    path = cwd / "program.py"
    path.write_text(textwrap.dedent(script))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, str(path)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_workers_end_with_the_program(tmp_path: Path) -> None:
    """Without a `__main__` guard or a close: no worker imports the script, and none is left behind."""
    result = run_script(
        """
        from rence_lightning.rewards import math_reward, math_equivalent
        assert math_equivalent("1/2", "0.5")
        print(math_reward._default_pool._processes[0].pid)
        """,
        tmp_path,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert gone(int(result.stdout))


def test_workers_end_when_the_program_is_killed(tmp_path: Path) -> None:
    """Both while idle, where they notice that the pipe is closed, and inside a judgement that never ends."""
    result = run_script(
        f"""
        import os, threading, time
        from rence_lightning.rewards.grading.pool import GraderPool
        pool = GraderPool(workers=2, timeout=1.0)
        pool.judge([("1/2", "0.5"), ("1/3", "2/6")])
        def kill():
            time.sleep(0.3)
            print(*[process.pid for process in pool._processes], flush=True)
            os.kill(os.getpid(), 9)
        threading.Thread(target=kill).start()
        pool.judge([("3", {TOWER!r})])
        """,
        tmp_path,
    )
    assert result.returncode == -signal.SIGKILL
    assert all(gone(int(pid)) for pid in result.stdout.split())


def test_importing_rewards_is_cheap(tmp_path: Path) -> None:
    result = run_script(
        """
        import sys, rence_lightning.rewards
        print([name for name in ("torch", "sympy", "math_verify", "lightning", "transformers") if name in sys.modules])
        """,
        tmp_path,
    )
    assert result.stdout.strip() == "[]", result.stderr
