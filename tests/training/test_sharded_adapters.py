"""Adapters above a sharded base: two processes train what one trains, in each combination of data types."""

import shutil
from pathlib import Path

import pytest
import torch
from adapted_models import randomise, trained
from lightning.fabric import Fabric
from test_sharding import SHARDED, assert_close, assert_same_run, command, fit, run, weights
from two_processes import in_two_processes

from rence_lightning.policy import LoRA, PackedRow, Segment, load_policy
from rence_lightning.rollouts import TransformersEngine
from rence_lightning.training.strategy import FullyShardStrategy, full_state_dict

pytestmark = pytest.mark.slow
ADAPTERS = ("--model.lora.r=4", "--model.lora.alpha=16", "--model.optimizer.init_args.lr=1e-3")
PIECES = "--trainer.micro_batch_tokens=100"
ONE_FILE = "--trainer.strategy.init_args.sharded_checkpoint=false"
HELD = (
    *(
        "--trainer.strategy.init_args.reduce_each_pass=false",
        "--trainer.strategy.init_args.reshard_after_forward=false",
    ),
    *("--trainer.strategy.init_args.cpu_offload=true", "--model.gradient_checkpointing=true"),
)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three iterations of a single process."""
    run_dir = tmp_path_factory.mktemp("one") / "run"
    fit(run_dir, *ADAPTERS)
    return run_dir


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two iterations of two processes, each with its shards; groups are cut into pieces."""
    run_dir = tmp_path_factory.mktemp("two") / "run"
    fit(run_dir, *ADAPTERS, *SHARDED, PIECES, iterations=2)
    return run_dir


def test_two_processes_train_and_resume_as_one(one: Path, two: Path, tmp_path: Path) -> None:
    shutil.copytree(two, tmp_path / "run", symlinks=True)
    fit(tmp_path / "run", *ADAPTERS, *SHARDED, "--ckpt_path=last", iterations=3)
    assert_same_run(tmp_path / "run", one)


@pytest.mark.parametrize(
    ("before", "after"),
    [pytest.param(HELD, (), id="offloaded-to-one"), pytest.param((ONE_FILE,), SHARDED, id="one-file")],
)
def test_checkpoints_of_two_processes_load_into_any_number(
    before: tuple[str, ...], after: tuple[str, ...], one: Path, tmp_path: Path
) -> None:
    fit(tmp_path / "run", *ADAPTERS, *SHARDED, *before, iterations=2)
    fit(tmp_path / "run", *ADAPTERS, *after, "--ckpt_path=last", iterations=3)
    assert_same_run(tmp_path / "run", one)


def test_a_sharded_checkpoint_is_evaluated_and_exported_by_one_process(two: Path, tmp_path: Path) -> None:
    shutil.copytree(two, tmp_path / "run", symlinks=True)
    alone = run("validate", tmp_path / "run", *ADAPTERS, "--ckpt_path=last")
    assert alone.returncode == 0, alone.stderr
    exported = command("export", str(tmp_path / "run"), str(tmp_path / "out"))
    assert exported.returncode == 0, exported.stderr
    shutil.copytree(tmp_path / "run" / "hf", tmp_path / "second" / "hf")
    shutil.copytree(tmp_path / "out", tmp_path / "exported" / "hf")
    assert_close(weights(tmp_path / "exported"), weights(tmp_path / "second"), atol=0)


def test_ddp_trains_the_adapters_of_one_process(one: Path, tmp_path: Path) -> None:
    fit(tmp_path / "run", *ADAPTERS, "--trainer.devices=2", "--trainer.strategy=ddp")
    assert_same_run(tmp_path / "run", one)


def compare_with_one_process(rank: int) -> None:
    """Runs in each of two processes: gradients, gathered weights and the engine's copy, for each choice of data types.

    A frozen base in bfloat16 and adapters in float32 are gathered together, in one group of parameters.
    """
    row = PackedRow([Segment([5, 6], [[6, 7, 8], [9, 4]])], torch.device("cpu"))
    for dtype, precision, offload in (
        ("float32", "32-true", False),
        ("bfloat16", "32-true", False),
        ("bfloat16", "bf16-mixed", False),
        ("bfloat16", "bf16-mixed", True),
        ("float32", "bf16-mixed", False),
    ):
        fabric = Fabric(
            accelerator="cpu", devices=2, strategy=FullyShardStrategy(cpu_offload=offload), precision=precision
        )
        fabric.launch()
        reference = load_policy("embedded:arithmetic", dtype=dtype, lora=LoRA(r=3))  # type: ignore[arg-type]
        randomise(reference)
        with fabric.autocast():
            expected = reference(row).log_probs
        expected.sum().backward()
        policy = load_policy("embedded:arithmetic", dtype=dtype, lora=LoRA(r=3), empty=rank > 0)  # type: ignore[arg-type]
        if rank == 0:
            randomise(policy)
        wrapped = fabric.setup_module(policy)
        with fabric.autocast():
            log_probs = wrapped(row).log_probs
        rounding = 1e-5 if dtype == "float32" and precision == "32-true" else 0.1
        torch.testing.assert_close(log_probs, expected, rtol=0, atol=rounding)
        fabric.backward(log_probs.sum())
        for (name, ours), whole in zip(trained(policy).items(), trained(reference).values(), strict=True):
            gradient = ours.grad.full_tensor().to("cpu")  # averaged over two processes with the same row
            assert gradient.dtype == torch.float32 and ours.dtype == torch.float32
            scale = float(whole.grad.abs().max())
            assert scale > 1e-4, "the comparison needs gradients"
            torch.testing.assert_close(gradient, whole.grad, rtol=0, atol=rounding * scale, msg=f"{name} {precision}")
        assert all(parameter.grad is None for parameter in policy.parameters() if not parameter.requires_grad)
        assert policy.frozen_digest() == reference.frozen_digest()
        merged = dict(reference.weights(torch.device("cpu"), torch.float32))
        for name, weight in policy.weights(torch.device("cpu"), torch.float32):
            assert torch.equal(weight, merged[name]), name
        engine = TransformersEngine()
        with fabric.autocast():  # as a run samples
            engine.sync(policy)
        assert engine._model is not None
        copies = dict(engine._model.named_parameters(remove_duplicate=False))
        assert copies.keys() == merged.keys()
        assert all(torch.equal(copy, merged[name].to(copy.dtype)) for name, copy in copies.items()), "other weights"
        whole_state = full_state_dict(policy)
        assert rank or all(torch.equal(weight, reference.state_dict()[name]) for name, weight in whole_state.items())


def test_gradients_and_gathered_weights_are_those_of_one_process_in_any_data_types() -> None:
    in_two_processes(compare_with_one_process)
