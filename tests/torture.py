"""Kills a running `fit` at random moments, resumes it each time, and compares the result with an uninterrupted run.

Every second kill waits until a checkpoint is being written, because a run is most easily broken at that moment; the
other kills come at random moments. SIGKILL cannot be caught: the process does nothing more.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from rence_lightning.run.directory import SavedAt

ROOT = Path(__file__).parent.parent
ITERATIONS = 8


def start(run_dir: Path, *options: str) -> "subprocess.Popen[str]":
    """A small run of `ITERATIONS` iterations, in a process group of its own, that saves after each."""
    command = [
        *(sys.executable, "-m", "rence_lightning", "fit", "--config=conf/arithmetic.yaml"),
        *(f"--trainer.run_dir={run_dir}", f"--trainer.max_iterations={ITERATIONS}"),
        *("--progress.bars=false", "--report.enabled=false"),
        *("--checkpoint.every=1", "--evaluation.every=2", "--evaluation.limit=20", "--evaluation.repeats=1"),
        *("--data.prompts_per_iteration=8", "--data.prompts_per_update=4", "--data.prompts_per_draw=8", *options),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def kill(process: "subprocess.Popen[str]") -> None:
    """Ends a run and all of its processes at once; the agent's processes are in sessions of their own."""
    for worker in workers(process):
        os.killpg(worker, signal.SIGKILL)
    process.kill()
    process.wait()


def workers(process: "subprocess.Popen[str]") -> list[int]:
    """The processes of the ranks that an agent has started, in the order of the ranks; none of a run of one process."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(child) for child in children if os.getsid(int(child)) == int(child)]


def finish(process: "subprocess.Popen[str]") -> str:
    """Waits for the end; returns the rest of the output."""
    output, _ = process.communicate(timeout=600)
    return output


def resume(run_dir: Path) -> list[str]:
    """The option that resumes a run, if there is a checkpoint to resume from."""
    return ["--ckpt_path=last"] if (run_dir / "checkpoints" / "last").exists() else []


def wait_for(process: "subprocess.Popen[str]", words: str) -> str:
    """Reads the output up to a line with these words."""
    seen = ""
    assert process.stdout is not None
    for line in process.stdout:
        seen += line
        if words in line:
            return seen
    raise AssertionError(f"no line with {words!r}:\n{seen}")


def outcome(run_dir: Path) -> dict[str, Any]:
    """The result of a run: weights, evaluations, and the outcome of each prompt in each iteration."""
    evaluations = [json.loads(line) for line in (run_dir / "evaluations.jsonl").read_text().splitlines()]
    files = sorted((run_dir / "rollouts").glob("*.jsonl"))
    rows = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    return {
        "weights": load_file(run_dir / "hf" / "model.safetensors"),
        "evaluations": [(row["iteration"], row["average"]) for row in evaluations],
        "outcomes": [[(row["id"], row["outcome"]) for row in iteration] for iteration in rows],
    }


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Asserts that two results are identical to the bit."""
    assert one["outcomes"] == other["outcomes"], "prompts were lost, repeated or judged differently"
    assert one["evaluations"] == other["evaluations"]
    assert one["weights"].keys() == other["weights"].keys()
    assert all(torch.equal(weight, other["weights"][name]) for name, weight in one["weights"].items())


def assert_nothing_half_written(run_dir: Path) -> None:
    """Asserts that every checkpoint in its final place can be read, and that the links point to such checkpoints."""
    checkpoints = run_dir / "checkpoints"
    for folder in checkpoints.glob("iteration-*"):
        state = folder / "state"
        run = torch.load(state / "meta.pt" if state.is_dir() else state, weights_only=True)["run"]
        assert SavedAt.read(folder).updates_total == run["global_step"]
        assert all(torch.load(file, weights_only=True) for file in folder.glob("rng-*"))
    for name in ("last", "best"):
        link = checkpoints / name
        assert link.exists() or not link.is_symlink(), f"the link {name} is broken"


def assert_mastered_once(outcomes: list[list[tuple[str, str]]]) -> None:
    mastered = [prompt for iteration in outcomes for prompt, outcome in iteration if outcome == "mastered"]
    assert len(mastered) == len(set(mastered)), "a prompt was mastered twice"
    for number, iteration in enumerate(outcomes):
        gone = {prompt for earlier in outcomes[:number] for prompt, outcome in earlier if outcome == "mastered"}
        assert not gone & {prompt for prompt, _ in iteration}, "a mastered prompt was sampled again"


def writing(run_dir: Path) -> bool:
    """Whether a checkpoint is being written at this moment."""
    return any((run_dir / "checkpoints").glob(".tmp-iteration-*"))


def torture(run_dir: Path, kills: int, *options: str) -> int:
    """Kills and resumes a run, then lets it end.

    Returns:
        The number of kills that came while a checkpoint was being written.
    """
    rng, during = random.Random(0), 0
    for number in range(kills):
        process = start(run_dir, *options, *resume(run_dir))
        wait_for(process, "run directory")
        if number % 2:
            while not writing(run_dir) and process.poll() is None:
                time.sleep(0.0005)
            time.sleep(rng.choice([0, 0.002, 0.01, 0.03]))
        else:
            for _ in range(rng.randrange(3)):  # lines, so that the progress does not depend on the machine's speed
                assert process.stdout is not None
                process.stdout.readline()
            time.sleep(rng.uniform(0, 0.3))
        assert process.poll() is None, f"the run ended before kill {number + 1}:\n{finish(process)}"
        kill(process)
        during += writing(run_dir)
        if (run_dir / "checkpoints").exists():
            assert_nothing_half_written(run_dir)
        if not resume(run_dir):  # killed before the first checkpoint
            shutil.rmtree(run_dir)
    process = start(run_dir, *options, *resume(run_dir))
    output = finish(process)
    assert process.returncode == 0, output
    names = [path.name for path in (run_dir / "checkpoints").iterdir()]
    left = [name for name in names if name.startswith((".old-", ".gone-", ".tmp-"))]
    assert not left, f"left behind: {left}"
    return during
