"""What breaks while a run is under way: the engine, the disk. It ends with a clear message and nothing lost."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from arithmetic_run import finishing_callbacks, fresh_start, make_data, make_module, make_trainer
from safetensors.torch import load_file

from rence_lightning.callbacks import Callback, Checkpoint
from rence_lightning.errors import CheckpointError, EngineError
from rence_lightning.rollouts import (
    EngineProgress,
    GroupFinished,
    Rollout,
    SampledPolicy,
    Sampling,
    TransformersEngine,
)
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.trainer import Trainer

ROOT = Path(__file__).parents[2]


class DyingEngine(TransformersEngine):
    """Fails, on one rank, in the first rollouts of an iteration."""

    def __init__(self, iteration: int, rank: int = 0, while_syncing: bool = False) -> None:
        super().__init__()
        self.iteration, self.rank, self.while_syncing = iteration, rank, while_syncing
        self.syncs = 0

    def sync(self, policy: SampledPolicy) -> None:
        super().sync(policy)
        self.syncs += 1
        if self.while_syncing:
            self._perhaps_die()

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        group_size: int,
        sampling: Sampling,
        seeds: Sequence[int],
        progress: EngineProgress | None = None,
        finished: GroupFinished | None = None,
    ) -> list[list[Rollout]]:
        self._perhaps_die()
        return super().generate(prompts, group_size, sampling, seeds, progress, finished)

    def _perhaps_die(self) -> None:
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        if self.syncs == self.iteration + 1 and rank == self.rank:  # the evaluation before training syncs, too
            raise EngineError("its memory is gone")


def final(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "hf" / "model.safetensors")


def assert_same(one: Path, other: Path) -> None:
    assert all(torch.equal(weight, final(other)[name]) for name, weight in final(one).items())
    for name in sorted(path.name for path in (one / "rollouts").iterdir()):
        rows = [[json.loads(line)["id"] for line in (run / "rollouts" / name).open()] for run in (one, other)]
        assert rows[0] == rows[1], f"{name}: prompts were lost or repeated"


@pytest.mark.slow
@pytest.mark.parametrize("while_syncing", [False, True])
def test_an_engine_that_dies_loses_nothing(while_syncing: bool, tmp_path: Path) -> None:
    def run(name: str, ckpt_path: str | None = None, **data: Any) -> None:
        fresh_start()
        trainer = make_trainer(tmp_path / name, finishing_callbacks(), max_iterations=4)
        trainer.fit(make_module(), make_data(**data), ckpt_path=ckpt_path)

    run("whole")
    with pytest.raises(EngineError, match="its memory is gone"):
        run("broken", engine=DyingEngine(3, while_syncing=while_syncing))
    last = tmp_path / "broken" / "checkpoints" / "last"
    assert last.resolve().name == "iteration-0002", "what two iterations learned was lost"
    run("broken", ckpt_path="last")
    assert_same(tmp_path / "whole", tmp_path / "broken")


@pytest.mark.slow
@pytest.mark.parametrize("while_syncing", ["false", "true"])
def test_an_engine_that_dies_on_one_rank_stops_all(while_syncing: str, tmp_path: Path) -> None:
    """The other rank must not wait for it: both save, and the message says which."""
    command = [
        *(sys.executable, "-m", "rence_lightning", "fit", "--config=conf/arithmetic.yaml"),
        *(f"--trainer.run_dir={tmp_path / 'run'}", "--evaluation.limit=10", "--checkpoint.every=100"),
        *("--trainer.devices=2", "--trainer.strategy=rence_lightning.training.FullyShardStrategy"),
        *("--data.engine=test_failures.DyingEngine", "--data.engine.init_args.iteration=2"),
        *("--data.engine.init_args.rank=1", f"--data.engine.init_args.while_syncing={while_syncing}"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "tests")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "error: rank 1: its memory is gone" in done.stderr and "Traceback" not in done.stderr
    assert "stopped by a failure of the engine after iteration 1; go on with --ckpt_path" in done.stdout
    assert (tmp_path / "run" / "checkpoints" / "last").resolve().name == "iteration-0001"


class FullDisk(Callback):
    """From some iteration on, no file can grow past 100 kB: a checkpoint breaks off in the middle of writing."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def on_train_epoch_end(self, trainer: Trainer, module: PolicyModule) -> None:
        if trainer.current_epoch == self.iteration:
            limit_files(100_000)


def limit_files(size: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    fresh_start()
    callbacks = [FullDisk(2), Checkpoint(every=1)]
    trainer = make_trainer(tmp_path / "run", callbacks, max_iterations=3)
    try:
        with pytest.raises(CheckpointError, match=r"cannot write the checkpoint .*iteration-0002: .* GB are free"):
            trainer.fit(make_module(), make_data())
    finally:
        limit_files(resource.RLIM_INFINITY)
    checkpoints = tmp_path / "run" / "checkpoints"
    assert {path.name for path in checkpoints.iterdir()} == {"iteration-0001", "last"}, "half a checkpoint was left"
    fresh_start()
    resumed = make_trainer(tmp_path / "run", [Checkpoint(every=1)], max_iterations=3)
    resumed.fit(make_module(), make_data(), ckpt_path="last")
    assert (checkpoints / "last").resolve().name == "iteration-0003"
