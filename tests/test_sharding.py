"""Two processes train the policy that one process trains (FSDP2 over gloo)."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parent.parent
SHARDED = ("--trainer.devices=2", "--trainer.strategy=rence_lightning.strategy.FullyShardStrategy")


def command(name: str, run_dir: Path, *options: str) -> subprocess.CompletedProcess[str]:
    arguments = [
        *(sys.executable, "-m", "rence_lightning", name, "--config", "conf/arithmetic.yaml"),
        *(f"--trainer.run_dir={run_dir}", "--evaluation.limit=20", *options),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        arguments, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def fit(run_dir: Path, *options: str, iterations: int = 3) -> None:
    done = command("fit", run_dir, f"--trainer.max_iterations={iterations}", "--checkpoint.every=2", *options)
    assert done.returncode == 0, done.stdout + done.stderr


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "hf" / "model.safetensors")


def fates(run_dir: Path) -> list[list[tuple[Any, Any]]]:
    """What became of each prompt, in order, in each iteration."""
    files = sorted((run_dir / "rollouts").glob("*.jsonl"))
    rows = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    return [[(row["id"], row["fate"]) for row in iteration] for iteration in rows]


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, weight in one.items():
        torch.testing.assert_close(weight, other[name], rtol=0, atol=1e-5, msg=f"{name} differs")


@pytest.mark.slow
def test_two_sharded_processes_train_the_policy_of_one(tmp_path: Path) -> None:
    fit(tmp_path / "one")
    fit(tmp_path / "two", *SHARDED)
    assert fates(tmp_path / "one") == fates(tmp_path / "two"), "kept, mastered and cached must not depend on the ranks"
    assert_close(weights(tmp_path / "one"), weights(tmp_path / "two"))
    start = load_file(ROOT / "rence_lightning" / "embedded" / "arithmetic" / "model.safetensors")
    moved = weights(tmp_path / "one")["model.norm.weight"] - start["model.norm.weight"].float()
    assert moved.abs().max() > 1e-5, "the policy did not move: the test has no point"
    # A budget that no group fits in: pieces with coefficients, and idle passes, on both processes.
    fit(tmp_path / "pieces", *SHARDED, "--trainer.micro_batch_tokens=100")
    assert_close(weights(tmp_path / "one"), weights(tmp_path / "pieces"))


@pytest.mark.slow
def test_a_sharded_run_resumes(tmp_path: Path) -> None:
    fit(tmp_path / "whole", *SHARDED, iterations=3)
    fit(tmp_path / "parts", *SHARDED, iterations=2)
    fit(tmp_path / "parts", *SHARDED, "--ckpt_path=last", iterations=3)
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(weight, parts[name]) for name, weight in whole.items()), "resume is not exact"
    assert fates(tmp_path / "whole") == fates(tmp_path / "parts")


@pytest.mark.slow
def test_shards_of_two_processes_load_into_one(tmp_path: Path) -> None:
    fit(tmp_path / "run", *SHARDED, iterations=2)
    alone = command("validate", tmp_path / "run", "--ckpt_path=last")
    assert alone.returncode == 2
    assert "load it with --trainer.strategy=rence_lightning.strategy.FullyShardStrategy" in alone.stderr
    assert not (tmp_path / "run-validate").exists(), "a command that cannot start must leave nothing behind"
    fit(tmp_path / "run", SHARDED[1], "--ckpt_path=last", iterations=3)
    fit(tmp_path / "whole", iterations=3)
    assert_close(weights(tmp_path / "whole"), weights(tmp_path / "run"))
    assert fates(tmp_path / "whole") == fates(tmp_path / "run")
