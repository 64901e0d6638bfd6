"""Saving and loading everything that the next step depends on.

A checkpoint is a folder: `state` (policy, optimizer and the run's own state, through Fabric, so a file or a folder of
shards as the strategy has it), `rng-RANK` (each rank's random number generators) and `hf` (configuration and tokenizer,
which make the weights a policy without the run's YAML). It is written beside its place and renamed into it, so a
checkpoint that exists is whole. Only plain types are stored, and they are read with `weights_only`.

Any checkpoint loads into any strategy and any number of processes.
"""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.distributed.checkpoint as dcp
from lightning.fabric import Fabric
from lightning.fabric.strategies import ModelParallelStrategy
from lightning.fabric.wrappers import _FabricModule, _FabricOptimizer
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.nn import Module
from torch.optim import Optimizer

from rence_lightning.errors import CheckpointError, UserError
from rence_lightning.policy import Policy


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

    Raises:
        CheckpointError: On every rank, when one cannot write (a full disk); what was saved before stands.
    """
    draft = folder.with_name(f".tmp-{folder.name}")

    def prepare() -> None:
        if fabric.is_global_zero:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)

    def write() -> None:
        fabric.save(draft / "state", {"policy": policy, "optimizer": optimizer, "run": run})
        torch.save(_rng_state(), draft / f"rng-{fabric.global_rank}")
        if fabric.is_global_zero:
            (draft / "steps").write_text(f"{steps}\n")  # a small file, read without opening the large one
            _unwrapped(policy).save_config(draft / "hf")

    def publish() -> None:
        if fabric.is_global_zero:
            _put_in_place(draft, folder)

    try:
        for step in (prepare, write, publish):
            _together(fabric, folder, step)
    finally:
        if fabric.is_global_zero:
            shutil.rmtree(draft, ignore_errors=True)  # a full disk has no room for half a checkpoint


def _together(fabric: Fabric, folder: Path, step: Callable[[], None]) -> None:
    """Takes a step on every rank, and fails on every rank if it fails on one: none waits for another that is gone."""
    failure: Exception | None = None
    try:
        step()
    except Exception as error:  # torch has several names for a full disk
        failure = error
    if fabric.strategy.reduce_boolean_decision(failure is None, all=True):
        return
    reason = "another rank could not" if failure is None else (str(failure).strip() or repr(failure)).splitlines()[0]
    free = shutil.disk_usage(folder.parent if folder.parent.exists() else folder.anchor or ".").free
    raise CheckpointError(
        f"cannot write the checkpoint {folder}: {reason} ({free / 1e9:.1f} GB are free on that disk); what was saved "
        "before stands: make room and go on with --ckpt_path last"
    ) from failure


def load_checkpoint(fabric: Fabric, folder: Path, policy: Module, optimizer: Optimizer) -> dict[str, Any]:
    """Restores policy, optimizer and random number generators; returns the `run` that was saved with them."""
    if _has_shards(folder) and not isinstance(fabric.strategy, ModelParallelStrategy):
        run = _assemble(folder, _unwrapped(policy), cast(_FabricOptimizer, optimizer).optimizer)
    else:
        run = fabric.load(folder / "state", {"policy": policy, "optimizer": optimizer}, weights_only=True)["run"]
    rng = folder / f"rng-{fabric.global_rank}"
    if rng.exists():  # a run resumed on more ranks has new ones, which start from the seed
        _set_rng_state(torch.load(rng, weights_only=True))
    return run


def load_policy_weights(fabric: Fabric, folder: Path, policy: Module) -> dict[str, Any]:
    """Loads a checkpoint's policy alone; returns the `run` that was saved with it."""
    if _has_shards(folder) and not isinstance(fabric.strategy, ModelParallelStrategy):
        return _assemble(folder, _unwrapped(policy))
    run: dict[str, Any] = fabric.load(folder / "state", {"policy": policy}, weights_only=True)["run"]
    return run


def read_policy_weights(folder: Path, policy: Policy) -> None:
    """Loads a checkpoint's weights into a policy of one process, without Fabric."""
    if _has_shards(folder):
        _assemble(folder, policy)
        return
    state = torch.load(folder / "state", weights_only=True, mmap=True, map_location="cpu")
    policy.load_state_dict(state["policy"])


def _has_shards(folder: Path) -> bool:
    return (folder / "state").is_dir()


def _assemble(folder: Path, policy: Policy, optimizer: Optimizer | None = None) -> dict[str, Any]:
    """Reads the shards of several processes into an unsharded policy (and optimizer); returns the `run`."""
    state: dict[str, Any] = {"policy": get_model_state_dict(policy)}
    if optimizer is not None:
        state["optimizer"] = get_optimizer_state_dict(policy, optimizer)
    dcp.load(state, checkpoint_id=folder / "state", no_dist=True)
    set_model_state_dict(policy, state["policy"])
    if optimizer is not None:
        set_optimizer_state_dict(policy, optimizer, state["optimizer"])
    run: dict[str, Any] = torch.load(folder / "state" / "meta.pt", weights_only=True)["run"]
    return run


def _unwrapped(policy: Module) -> Policy:
    return cast(Policy, cast(_FabricModule, policy).module)


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
