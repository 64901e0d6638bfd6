"""Makes one of two processes fail, in each place of an iteration and in each way, with a transport that hides it.

    python tests/failures.py

Checked for each case: every process ends within a minute of the failure, the cause is printed once and last, and the
last checkpoint is complete.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

import torture

KINDS = ("UserError", "OutOfMemoryError", "AssertionError", "UnknownError")
PLACES = ("build", "sync", "generate", "reward", "filter", "update", "save", "callback")
SAVED = ("generate", "reward", "filter", "callback")
"""Places where all ranks come to an agreement, so that the state is saved because of the failure."""
RANKS = (0, 1)
SECONDS = 60

CASES = [*product(KINDS, RANKS, PLACES), *product(("SIGKILL",), RANKS, ("generate", "update"))]


def run(kind: str, rank: int, place: str, folder: Path) -> float:
    """Runs one case; returns the seconds between the failure and the end of the last process."""
    run_dir, failed_at = folder / "run", folder / "failed_at"
    part = {"engine": "Engine", "reward": "Reward", "filter": "Filter"}
    command = [
        *(sys.executable, "-m", "rence_lightning", "fit", "--config=conf/arithmetic.yaml"),
        *(f"--trainer.run_dir={run_dir}", "--trainer.max_iterations=3", "--progress.bars=false"),
        *(f"--checkpoint.every={100 if kind != 'SIGKILL' and place in SAVED else 1}", "--evaluation.every=0"),
        "--data.prompts_per_iteration=4",
        *("--data.prompts_per_update=2", "--data.prompts_per_draw=8", "--trainer.devices=2"),
        "--trainer.strategy=rence_lightning.training.FullyShardStrategy",
        *(f"--data.{key}=failing_parts.{name}" for key, name in part.items()),
        "--model.objective=failing_parts.Objective",
        "--trainer.callbacks+=failing_parts.Failing",
        *(f"--trainer.callbacks.init_args.{key}={value}" for key, value in
          {"kind": kind, "rank": rank, "place": place}.items()),
    ]  # fmt: skip
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(torture.ROOT / "tests"),
        "FAILED_AT": str(failed_at),
    }
    process = subprocess.Popen(
        command, cwd=torture.ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=180)  # ends when the last process has closed its output
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise AssertionError(f"{kind} on rank {rank} in {place}: processes are still running") from None
    seconds = time.time() - float(failed_at.read_text())
    check(kind, rank, place, output, process.returncode, run_dir)
    return seconds


def check(kind: str, rank: int, place: str, output: str, code: int, run_dir: Path) -> None:
    words = f"rank {rank}" if kind == "SIGKILL" else "the cause"
    message = f"{kind} on rank {rank} in {place}, exit code {code}:\n{output}"
    assert code != 0, message
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and words in errors[0], message
    below = output[output.index(errors[0]) :]
    assert "onnection" not in below and "Traceback" not in below.split("the cause")[-1], message
    assert "Connection reset" not in output and "Connection closed" not in output, message
    if place not in ("build", "save"):
        assert (run_dir / "checkpoints" / "last").resolve().name.startswith("iteration-0001"), message
    if (run_dir / "checkpoints").exists():
        torture.assert_nothing_half_written(run_dir)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="Cases whose name contains this, such as `SIGKILL` or `1 update`.")
    chosen = parser.parse_args()
    slowest, count = 0.0, 0
    for kind, rank, place in CASES:
        if chosen.only not in (name := f"{kind} {rank} {place}"):
            continue
        with tempfile.TemporaryDirectory() as folder:
            seconds = run(kind, rank, place, Path(folder))
        print(f"{name:<40} {seconds:5.1f} s", flush=True)
        assert seconds < SECONDS, f"{name}: the last process ended only {seconds:.0f} s after the failure"
        slowest, count = max(slowest, seconds), count + 1
    print(f"{count} failures: all processes ended after at most {slowest:.1f} s, each cause printed once and last")


if __name__ == "__main__":
    main()
