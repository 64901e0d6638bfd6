"""A run that is interrupted or killed continues, and has the same result as an uninterrupted run."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torture

from rence_lightning.training.stop import StopRequest

CALCULATOR = ("--data.environment=Calculator", "--data.environment.begin=", "--data.environment.end==")
SHARDED = ("--trainer.devices=2", "--trainer.strategy=rence_lightning.training.FullyShardStrategy")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The uninterrupted run."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    process = torture.start(run_dir)
    assert (torture.finish(process), process.returncode)[1] == 0
    return torture.outcome(run_dir)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_saves_and_continues_exactly(
    number: signal.Signals, whole: dict[str, Any], tmp_path: Path
) -> None:
    """Checkpoints are rare here, so that the one that is resumed was saved because of the signal."""
    run_dir = tmp_path / "run"
    stop_after_three_iterations(run_dir, number)
    assert not (run_dir / "hf").exists(), "an interrupted run should not spend its last seconds on an export"
    resumed = torture.start(run_dir, "--checkpoint.every=100", "--ckpt_path=last")
    assert (torture.finish(resumed), resumed.returncode)[1] == 0
    torture.assert_same(torture.outcome(run_dir), whole)


@pytest.mark.slow
def test_the_agent_passes_a_signal_on_and_waits_until_all_ranks_have_saved(tmp_path: Path) -> None:
    stop_after_three_iterations(tmp_path / "run", signal.SIGTERM, *SHARDED)
    assert len(list((tmp_path / "run" / "checkpoints" / "last").glob("rng-*"))) == 2


def stop_after_three_iterations(run_dir: Path, number: signal.Signals, *options: str) -> None:
    process = torture.start(run_dir, "--checkpoint.every=100", *options)
    torture.wait_for(process, "iteration   3/")
    process.send_signal(number)  # to the agent alone, where there is one
    begun = time.monotonic()
    output = torture.finish(process)
    assert time.monotonic() - begun < 30, "an interruption must not wait for the end of an iteration"
    assert process.returncode == 128 + number, output
    assert f"{number.name}: " in output and "again to stop now" in output, "no message was printed at once"
    assert f"stopped by {number.name}; the last checkpoint is iteration-0003" in output and "Traceback" not in output
    assert (run_dir / "checkpoints" / "last" / "state").exists()


def test_the_first_signal_says_what_happens_next_and_the_second_ends_the_process() -> None:
    """Also while the main thread is in one long computation, which Python code cannot interrupt."""
    script = """if True:
        import threading, torch
        from rence_lightning.training.stop import StopRequest
        with StopRequest(lambda: "finishing").listening():
            print("ready", flush=True)
            a = torch.randn(3000, 3000)
            for _ in range(1000):
                torch.linalg.svd(a)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "SIGINT: finishing\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130
    assert process.stderr.read() == "SIGINT again: stopped\n"


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # beside threads, from Python 3.12 on
@pytest.mark.parametrize(
    ("number", "ends_python", "codes"),
    [(signal.SIGTERM, signal.SIG_DFL, {-signal.SIGTERM}), (signal.SIGINT, signal.default_int_handler, {1})],
)
def test_a_signal_ends_a_forked_process_of_a_reward_and_not_the_run(
    number: signal.Signals, ends_python: Any, codes: set[int]
) -> None:
    """Forked on a background thread, as by a reward that ends its program after a while, or at once."""
    fork, request, ends = multiprocessing.get_context("fork"), StopRequest(lambda: "finishing"), set[int | None]()

    def program(begun: Any) -> None:
        begun.set()
        time.sleep(60)

    def reward() -> None:
        for waits in (True, *[False] * 10 * (number == signal.SIGTERM)):  # Python may lose a SIGINT that comes at once
            process = fork.Process(target=program, args=(begun := fork.Event(),))
            process.start()
            assert process.pid is not None
            if waits:
                assert begun.wait(60)
            os.kill(process.pid, number)
            process.join(10)
            ends.add(process.exitcode)
            process.kill()

    before = signal.signal(number, ends_python)  # a shell starts what runs in the background without SIGINT
    try:
        with request.listening():
            thread = threading.Thread(target=reward)
            thread.start()
            thread.join()
    finally:
        signal.signal(number, before)
    assert (ends, request.signal) == (codes, 0)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGTERM, signal.SIGINT}


def test_a_run_within_a_run_leaves_the_signals_to_the_outer_one() -> None:
    before, outer = signal.getsignal(signal.SIGTERM), StopRequest(lambda: "finishing")
    with outer.listening():
        with StopRequest(lambda: "evaluating").listening():
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(100):
            time.sleep(0.01 * (not outer.signal))
    assert (outer.signal, signal.getsignal(signal.SIGTERM)) == (signal.SIGTERM, before)


@pytest.mark.slow
def test_a_second_signal_ends_a_process_whose_output_nobody_reads() -> None:
    """As with `2>&1 | tee log`, where Ctrl-C ends tee first."""
    script = """if True:
        import sys, time
        from rence_lightning.training.stop import StopRequest
        with StopRequest(lambda: "finishing").listening():
            print("ready", flush=True)
            time.sleep(60)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == "ready\n"
    process.stdout.close()
    process.stderr.close()
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130


@pytest.mark.slow
@pytest.mark.parametrize("background", ["false", "true"])
def test_a_run_killed_at_random_moments_ends_like_one_that_was_not(
    background: str, whole: dict[str, Any], tmp_path: Path
) -> None:
    """SIGKILL at any moment: while sampling, training, evaluating or writing a checkpoint."""
    during = torture.torture(tmp_path / "run", 6, f"--checkpoint.background={background}")
    assert during, "no kill came while a checkpoint was being written, so that the test does not test this"
    killed = torture.outcome(tmp_path / "run")
    torture.assert_same(killed, whole)
    torture.assert_mastered_once(killed["outcomes"])


@pytest.mark.parametrize(
    ("strategy", "precision"),
    [
        pytest.param((), "bf16-mixed", id="one-bf16"),
        pytest.param(SHARDED, "32-true", id="two-float32", marks=pytest.mark.slow),
        pytest.param(SHARDED, "16-mixed", id="two-float16", marks=pytest.mark.slow),
        pytest.param((*SHARDED, *CALCULATOR), "32-true", id="two-environment", marks=pytest.mark.slow),
    ],
)
def test_four_iterations_are_two_a_kill_and_two(strategy: tuple[str, ...], precision: str, tmp_path: Path) -> None:
    options = (*strategy, f"--trainer.precision={precision}", "--trainer.max_iterations=4", "--checkpoint.every=2")
    process = torture.start(tmp_path / "whole", *options)
    output = torture.finish(process)
    assert process.returncode == 0, output
    process = torture.start(tmp_path / "killed", *options)
    torture.wait_for(process, "iteration   3/")
    torture.kill(process)
    process = torture.start(tmp_path / "killed", *options, "--ckpt_path=last")
    output = torture.finish(process)
    assert process.returncode == 0, output
    assert "iteration   2/" not in output and "iteration   3/" in output, "the run did not continue from iteration 2"
    torture.assert_same(torture.outcome(tmp_path / "killed"), torture.outcome(tmp_path / "whole"))


JUDGES = """
import asyncio
from rence_lightning.parts import share_of
from rence_lightning.rewards import last_boxed

def right(response):
    return last_boxed(response.text) == response.problem.answer

def share(response):
    return share_of(f"{response.problem.id} {list(response.token_ids)}")

def fast(response):
    return right(response) and share(response) >= 0.1

async def slow(response):
    await asyncio.sleep(0.05 * share(response))
    if share(response) >= 0.1:
        return right(response)
    if share(response) < 0.03:
        await asyncio.sleep(60)
    if share(response) < 0.06:
        raise ConnectionError("refused")
    return float("nan")
"""


@pytest.mark.slow
def test_a_reward_that_waits_and_fails_changes_nothing_also_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenth of the responses fail: no answer in time, an error, NaN; a fast reward that gives them 0 is beside it."""
    (tmp_path / "judges.py").write_text(JUDGES)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    reward = "--data.reward.init_args"
    options = ["--data.reward=rence_lightning.rewards.FunctionReward", "--trainer.max_iterations=4"]
    slow = [*options, f"{reward}.function=judges.slow", f"{reward}.time_limit=0.3", f"{reward}.on_failure=0.0"]
    process = torture.start(tmp_path / "fast", *options, f"{reward}.function=judges.fast")
    output = torture.finish(process)
    assert process.returncode == 0, output
    process = torture.start(tmp_path / "killed", *slow)
    torture.wait_for(process, "iteration   2/")
    time.sleep(0.5)
    torture.kill(process)
    process = torture.start(tmp_path / "killed", *slow, "--ckpt_path=last")
    output = torture.finish(process)
    assert process.returncode == 0 and "rollouts/reward_failures counts these" in output, output
    torture.assert_same(torture.outcome(tmp_path / "killed"), torture.outcome(tmp_path / "fast"))
    rows = (tmp_path / "killed" / "metrics.csv").read_text().splitlines()
    failures = rows[0].split(",").index("rollouts/reward_failures")
    assert sum(float(row.split(",")[failures] or 0) for row in rows[1:]) > 10


ENDLESS = """
import asyncio, threading
from own_task import PROBLEMS, SMALL
from rence_lightning import fit
from rence_lightning.rewards import FunctionReward

async def waits(response):
    print("asked", flush=True)
    await asyncio.sleep(600)

def blocks(response):
    print("asked", flush=True)
    threading.Event().wait(600)

SMALL["evaluation"] = {{"every": 0}}
fit(problems=PROBLEMS, reward=FunctionReward({}), run_dir="run", max_iterations=1, **SMALL)
"""


@pytest.mark.slow
@pytest.mark.parametrize("reward", ["waits", "blocks", "blocks, concurrency=16"])
def test_a_run_that_waits_for_a_reward_ends_within_seconds(reward: str, tmp_path: Path) -> None:
    """Also in a script, whose process would wait for the threads of an executor at its end."""
    (tmp_path / "task.py").write_text(ENDLESS.format(reward))
    tests = Path(__file__).parent.parent
    process = subprocess.Popen(
        [sys.executable, "task.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tests.parent}:{tests}", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    torture.wait_for(process, "asked")
    process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    output, _ = process.communicate(timeout=60)
    assert time.monotonic() - begun < 15 and process.returncode, output
    assert "SIGINT: " in output and "destroyed" not in output and "Event loop is closed" not in output
