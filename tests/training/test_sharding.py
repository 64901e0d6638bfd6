"""Two processes train the policy that one process trains (FSDP2 over gloo), however it is sharded: its weights, or
adapters above a sharded base."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rence_lightning.evaluation import SampleFolder, read_evaluations

ROOT = Path(__file__).parents[2]
STRATEGY = "--trainer.strategy=rence_lightning.training.FullyShardStrategy"
SHARDED = ("--trainer.devices=2", STRATEGY)
FOUR = ("--trainer.devices=4", STRATEGY)
ADAPTERS = ("--model.lora.r=4", "--model.lora.alpha=16", "--model.optimizer.init_args.lr=1e-3")


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "rence_lightning", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def run(name: str, run_dir: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return command(
        *(name, "--config=conf/arithmetic.yaml", f"--trainer.run_dir={run_dir}"),
        *("--evaluation.limit=20", "--evaluation.repeats=1", "--report.enabled=false", *options),
    )


def fit(run_dir: Path, *options: str, iterations: int = 3) -> None:
    done = run("fit", run_dir, f"--trainer.max_iterations={iterations}", "--checkpoint.every=2", *options)
    assert done.returncode == 0, done.stdout + done.stderr


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "hf" / "model.safetensors")


def outcomes(run_dir: Path) -> list[list[tuple[Any, Any]]]:
    """The outcome of each prompt, in order, in each iteration."""
    files = sorted((run_dir / "rollouts").glob("*.jsonl"))
    rows = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    return [[(row["id"], row["outcome"]) for row in iteration] for iteration in rows]


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], atol: float = 1e-5) -> None:
    assert one.keys() == other.keys()
    for name, weight in one.items():
        torch.testing.assert_close(weight, other[name], rtol=0, atol=atol, msg=f"{name} differs")


def assert_same_run(one: Path, other: Path) -> None:
    assert outcomes(one) == outcomes(other), "kept, mastered and cached must not depend on the ranks"
    assert_close(weights(one), weights(other))
    # Before training the weights are the same to the bit, and so are the figures of what they sample.
    first, second = (SampleFolder(run / "evaluations" / "iteration-0000") for run in (one, other))
    assert first.description().weights == second.description().weights
    assert list(first.read("arithmetic")) == list(second.read("arithmetic"))
    figures = [read_evaluations(run / "evaluations.jsonl")[0]["benchmarks"]["arithmetic"] for run in (one, other)]
    assert figures[0] == figures[1]


@pytest.fixture(
    scope="module",
    params=[pytest.param((), id="weights"), pytest.param(ADAPTERS, id="adapters", marks=pytest.mark.slow)],
)
def policy(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The options of what is trained."""
    options: tuple[str, ...] = request.param
    return options


@pytest.fixture(scope="module")
def one(policy: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three iterations of a single process."""
    run_dir = tmp_path_factory.mktemp("one") / "run"
    fit(run_dir, *policy)
    return run_dir


@pytest.fixture(scope="module")
def two(policy: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two iterations of two processes, each with its shards."""
    run_dir = tmp_path_factory.mktemp("two") / "run"
    fit(run_dir, *policy, *SHARDED, iterations=2)
    return run_dir


def test_the_reference_run_trains_and_has_every_outcome(one: Path) -> None:
    start = load_file(ROOT / "rence_lightning" / "embedded" / "arithmetic" / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    moved = weights(one)[name] - start[name].float()
    assert moved.abs().max() > 1e-5, "the policy did not move"
    assert {outcome for iteration in outcomes(one) for _, outcome in iteration} >= {"kept", "mastered", "too_hard"}


@pytest.mark.parametrize(
    "options",
    [
        # A budget that no group fits in: pieces with coefficients, and idle passes, on both processes.
        pytest.param((*SHARDED, "--trainer.micro_batch_tokens=100"), id="pieces"),
        pytest.param(
            (
                *(*SHARDED, "--trainer.strategy.init_args.reduce_each_pass=false", "--trainer.micro_batch_tokens=2000"),
                *("--trainer.strategy.init_args.cpu_offload=true", "--model.gradient_checkpointing=true"),
                "--trainer.strategy.init_args.reshard_after_forward=false",
            ),
            id="offloaded-checkpointed-reduced-at-the-end",
            marks=pytest.mark.slow,
        ),
        pytest.param(("--trainer.devices=2", "--trainer.strategy=ddp"), id="ddp", marks=pytest.mark.slow),
    ],
)
def test_several_processes_train_the_policy_of_one(
    options: tuple[str, ...], policy: tuple[str, ...], one: Path, tmp_path: Path
) -> None:
    fit(tmp_path / "run", *policy, *options)
    assert_same_run(tmp_path / "run", one)


@pytest.mark.slow
def test_nodes_that_torchrun_starts_train_the_policy_of_one(policy: tuple[str, ...], one: Path, tmp_path: Path) -> None:
    """Two nodes of a process each, every node with a whole copy."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1"),
                *(f"--node_rank={node}", "--master_addr=127.0.0.1", f"--master_port={port}", "-m", "rence_lightning"),
                *("fit", "--config=conf/arithmetic.yaml", f"--trainer.run_dir={tmp_path / 'run'}"),
                *("--evaluation.limit=20", "--evaluation.repeats=1", "--trainer.max_iterations=3"),
                *(*policy, STRATEGY, "--trainer.strategy.init_args.shard_size=node"),
                *("--trainer.num_nodes=2", "--trainer.devices=1"),
            ],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for node in (0, 1)
    ]
    outputs = [node.communicate(timeout=300)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], "\n".join(outputs)
    assert_same_run(tmp_path / "run", one)


@pytest.mark.slow
@pytest.mark.parametrize("after", [(STRATEGY, "--trainer.devices=1"), ()], ids=["sharded", "unsharded"])
def test_two_processes_resume_as_one(
    after: tuple[str, ...], policy: tuple[str, ...], one: Path, two: Path, tmp_path: Path
) -> None:
    shutil.copytree(two, tmp_path / "run", symlinks=True)
    fit(tmp_path / "run", *policy, *after, "--ckpt_path=last", iterations=3)
    assert_same_run(tmp_path / "run", one)


@pytest.mark.slow
@pytest.mark.parametrize(
    "before",
    [
        pytest.param((), id="one-unsharded"),
        pytest.param((*FOUR, "--trainer.strategy.init_args.shard_size=2"), id="hybrid-four"),
    ],
)
def test_any_processes_resume_as_two(
    before: tuple[str, ...], policy: tuple[str, ...], one: Path, tmp_path: Path
) -> None:
    fit(tmp_path / "run", *policy, *before, iterations=2)
    fit(tmp_path / "run", *policy, *SHARDED, "--ckpt_path=last", iterations=3)
    assert_same_run(tmp_path / "run", one)


@pytest.mark.slow
@pytest.mark.parametrize("saved", ["one", "two"])
def test_any_checkpoint_is_evaluated_and_exported_by_one_process(
    saved: str, policy: tuple[str, ...], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(request.getfixturevalue(saved), run_dir, symlinks=True)
    alone = run("validate", run_dir, *policy, "--ckpt_path=last")
    assert alone.returncode == 0, alone.stderr
    trained, again = (
        json.loads((folder / "evaluations.jsonl").read_text().splitlines()[-1])
        for folder in (run_dir, tmp_path / "run-validate")
    )
    assert trained["average"] == again["average"]
    exported = command("export", str(run_dir), str(tmp_path / "out"))
    assert exported.returncode == 0, exported.stderr
    assert_close(load_file(tmp_path / "out" / "model.safetensors"), weights(run_dir), atol=0)
    names = {path.name for path in (run_dir / "hf").iterdir()}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    for name in names - {"model.safetensors"}:
        assert (tmp_path / "out" / name).read_text() == (run_dir / "hf" / name).read_text(), name


@pytest.mark.slow
def test_a_shard_size_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    done = run("fit", tmp_path / "run", *SHARDED, "--trainer.strategy.init_args.shard_size=3")
    assert done.returncode == 2
    assert "error: strategy: shard_size 3 does not divide the 2 processes of the run" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_policy_that_cannot_be_loaded_is_reported_once(tmp_path: Path) -> None:
    """Rank 0 alone reads the weights; the other ranks must not wait for them after a failure."""
    done = run("fit", tmp_path / "run", *SHARDED, "--model.policy=/no/such/folder")
    assert done.returncode == 2
    assert done.stderr.count("error: policy: no folder '/no/such/folder'") == 1 and "Traceback" not in done.stderr
