"""Saving and loading everything that the next step depends on.

A checkpoint is a folder: `state` (policy, optimizer and the run's own state, through Fabric, so a file or a folder of
shards as the strategy has it) and `rng-RANK` (each rank's random number generators). It is written beside its place and
renamed into it, so a checkpoint that exists is whole. Only plain types are stored, and they are read with
`weights_only`: loading a checkpoint runs no code from it.
"""

import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies import ModelParallelStrategy
from torch.nn import Module
from torch.optim import Optimizer

from rence_lightning.errors import UserError


def save_checkpoint(
    fabric: Fabric, folder: Path, policy: Module, optimizer: Optimizer, run: dict[str, Any], steps: int
) -> None:
    """Writes a checkpoint; every rank takes part.

    Args:
        fabric: Has set up the policy and the optimizer.
        folder: Where to.
        policy: What is trained.
        optimizer: Its optimizer.
        run: Whatever else the next step depends on, in plain types.
        steps: Updates taken, for `peek_steps`.
    """
    draft = folder.with_name(f".tmp-{folder.name}")
    if fabric.is_global_zero:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
    fabric.barrier()
    fabric.save(draft / "state", {"policy": policy, "optimizer": optimizer, "run": run})
    torch.save(_rng_state(), draft / f"rng-{fabric.global_rank}")
    fabric.barrier()
    if fabric.is_global_zero:
        (draft / "steps").write_text(f"{steps}\n")  # a small file, read without opening the large one
        _put_in_place(draft, folder)
    fabric.barrier()


def load_checkpoint(fabric: Fabric, folder: Path, policy: Module, optimizer: Optimizer) -> dict[str, Any]:
    """Restores policy, optimizer and random number generators; returns the `run` that was saved with them."""
    run: dict[str, Any] = fabric.load(folder / "state", {"policy": policy, "optimizer": optimizer}, weights_only=True)[
        "run"
    ]
    rng = folder / f"rng-{fabric.global_rank}"
    if rng.exists():  # a run resumed on more ranks has new ones, which start from the seed
        _set_rng_state(torch.load(rng, weights_only=True))
    return run


def load_policy_weights(fabric: Fabric, folder: Path, policy: Module) -> dict[str, Any]:
    """Loads a checkpoint's policy alone; returns the `run` that was saved with it."""
    return _load(fabric, folder, {"policy": policy})


def _load(fabric: Fabric, folder: Path, state: dict[str, Any]) -> dict[str, Any]:
    sharded = (folder / "state").is_dir()
    if sharded and not isinstance(fabric.strategy, ModelParallelStrategy):
        raise UserError(
            f"ckpt_path: {folder} holds the shards of several processes; load it with "
            "--trainer.strategy=rence_lightning.strategy.FullyShardStrategy (any number of devices, one as well)"
        )
    run: dict[str, Any] = fabric.load(folder / "state", state, weights_only=True)["run"]
    return run


def _put_in_place(draft: Path, folder: Path) -> None:
    """Renames a finished draft; an older folder of that name stands until the new one does."""
    _flush_to_disk(draft)
    older = folder.with_name(f".old-{folder.name}")
    shutil.rmtree(older, ignore_errors=True)
    if folder.exists():
        folder.replace(older)
    draft.replace(folder)
    _fsync(folder.parent)
    shutil.rmtree(older, ignore_errors=True)


def peek_steps(folder: Path) -> int:
    """Updates taken when a checkpoint was made."""
    try:
        return int((folder / "steps").read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"ckpt_path: {folder} is not a whole checkpoint; give another") from error


def _rng_state() -> dict[str, Any]:
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [name, np.asarray(keys).tolist(), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _set_rng_state(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])


def _flush_to_disk(folder: Path) -> None:
    """A rename may reach the disk before the data it names; sync both, files first."""
    for path in sorted(folder.rglob("*"), reverse=True):
        _fsync(path)
    _fsync(folder)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
