"""A run that is told to stop, or killed, goes on as if nothing had happened."""

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

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parent.parent
ITERATIONS = 8
KILLS = 5


def start(run_dir: Path, *options: str) -> "subprocess.Popen[str]":
    command = [
        *(sys.executable, "-m", "rence_lightning", "fit", "--config=conf/arithmetic.yaml"),
        *(f"--trainer.run_dir={run_dir}", f"--trainer.max_iterations={ITERATIONS}", "--progress.bars=false"),
        *("--checkpoint.every=1", "--evaluation.every=2", "--evaluation.limit=20", "--evaluation.repeats=1"),
        *("--data.prompts_per_iteration=8", "--data.prompts_per_update=4", "--data.prompts_per_draw=8", *options),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def resume(run_dir: Path) -> list[str]:
    return ["--ckpt_path=last"] if (run_dir / "checkpoints" / "last").exists() else []


def finish(process: "subprocess.Popen[str]") -> str:
    output, _ = process.communicate(timeout=300)
    return output


def outcome(run_dir: Path) -> dict[str, Any]:
    """All that a run ends with: weights, evaluations, and what became of each prompt in each iteration."""
    evaluations = [json.loads(line) for line in (run_dir / "evaluations.jsonl").read_text().splitlines()]
    files = sorted((run_dir / "rollouts").glob("*.jsonl"))
    rows = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    return {
        "weights": load_file(run_dir / "hf" / "model.safetensors"),
        "evaluations": [(row["iteration"], row["average"]) for row in evaluations],
        "fates": [[(row["id"], row["fate"]) for row in iteration] for iteration in rows],
    }


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["fates"] == other["fates"], "prompts were lost, repeated or judged otherwise"
    assert one["evaluations"] == other["evaluations"]
    assert all(torch.equal(weight, other["weights"][name]) for name, weight in one["weights"].items())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The uninterrupted run."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    process = start(run_dir)
    assert (process.wait(), finish(process))[0] == 0
    return outcome(run_dir)


def wait_for(process: "subprocess.Popen[str]", words: str) -> str:
    """Reads the output up to a line with these words."""
    seen = ""
    assert process.stdout is not None
    for line in process.stdout:
        seen += line
        if words in line:
            return seen
    raise AssertionError(f"no line with {words!r}:\n{seen}")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_told_to_stop_saves_and_goes_on_exactly(
    number: signal.Signals, whole: dict[str, Any], tmp_path: Path
) -> None:
    """Checkpoints are rare here: what is saved is saved because of the signal."""
    run_dir = tmp_path / "run"
    process = start(run_dir, "--checkpoint.every=100")
    wait_for(process, "iteration   3/")
    process.send_signal(number)
    output = finish(process)
    assert process.returncode == 128 + number, output
    assert f"stopped by {number.name} after iteration" in output
    assert (run_dir / "checkpoints" / "last" / "state").exists()
    assert not (run_dir / "hf").exists(), "a run that is told to stop should not spend its last seconds on an export"
    resumed = start(run_dir, "--checkpoint.every=100", "--ckpt_path=last")
    assert (finish(resumed), resumed.returncode)[1] == 0
    assert_same(outcome(run_dir), whole)


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_like_one_that_was_not(whole: dict[str, Any], tmp_path: Path) -> None:
    """SIGKILL, wherever it strikes: while sampling, training, evaluating or writing a checkpoint."""
    run_dir, rng = tmp_path / "run", random.Random(0)
    for _ in range(KILLS):
        process = start(run_dir, *resume(run_dir))
        wait_for(process, "run directory")
        for _ in range(rng.randrange(4)):  # lines, for how fast a machine is must not decide how far it gets
            assert process.stdout is not None
            process.stdout.readline()
        time.sleep(rng.uniform(0, 0.2))
        assert process.poll() is None, "it was done before it could be killed"
        process.kill()
        process.wait()
        if not resume(run_dir):  # killed before there was anything to go on from
            shutil.rmtree(run_dir)
    process = start(run_dir, *resume(run_dir))
    assert (finish(process), process.returncode)[1] == 0
    assert_same(outcome(run_dir), whole)
    assert not [path for path in (run_dir / "checkpoints").iterdir() if path.name.startswith(".old-")]
