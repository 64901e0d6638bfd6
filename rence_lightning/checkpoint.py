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
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rence_lightning.errors import UserError

if TYPE_CHECKING:
    from rence_lightning.trainer import Trainer


def save_checkpoint(trainer: "Trainer", folder: Path) -> None:
    """Writes a checkpoint; every rank takes part."""
    draft = folder.with_name(f".tmp-{folder.name}")
    if trainer.is_global_zero:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
    trainer.fabric.barrier()
    trainer.fabric.save(
        draft / "state",
        {"policy": trainer.lightning_module.policy, "optimizer": trainer.optimizers[0], "run": _run_state(trainer)},
    )
    torch.save(_rng_state(), draft / f"rng-{trainer.global_rank}")
    trainer.fabric.barrier()
    if trainer.is_global_zero:
        # Small files, read without opening the large one.
        (draft / "steps").write_text(f"{trainer.global_step}\n")
        _flush_to_disk(draft)
        if folder.exists():
            shutil.rmtree(folder)
        draft.replace(folder)
    trainer.fabric.barrier()


def load_checkpoint(trainer: "Trainer", folder: Path) -> None:
    """Puts a trainer, its module, data, callbacks and random number generators back to where a checkpoint was made."""
    state = {"policy": trainer.lightning_module.policy, "optimizer": trainer.optimizers[0]}
    run = trainer.fabric.load(folder / "state", state, weights_only=True)["run"]
    trainer.global_step = run["global_step"]
    trainer.current_epoch = run["iteration"]
    trainer.updates_skipped = run["updates_skipped"]
    trainer.lightning_module.on_load_checkpoint(run)
    trainer.datamodule.load_state_dict(run["data"])
    if trainer.lr_scheduler_configs:
        trainer.lr_scheduler_configs[0].load_state_dict(run["lr_scheduler"])
    for callback in trainer.callbacks:
        if callback.state_key in run["callbacks"]:
            callback.load_state_dict(run["callbacks"][callback.state_key])
    rng = folder / f"rng-{trainer.global_rank}"
    if rng.exists():  # a run resumed on more ranks has new ones, which start from the seed
        _set_rng_state(torch.load(rng, weights_only=True))


def load_policy_weights(trainer: "Trainer", folder: Path) -> None:
    """Loads a checkpoint's policy alone."""
    trainer.fabric.load(folder / "state", {"policy": trainer.lightning_module.policy}, weights_only=True)


def peek_steps(folder: Path) -> int:
    """Updates taken when a checkpoint was made."""
    try:
        return int((folder / "steps").read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"ckpt_path: {folder} is not a whole checkpoint; give another") from error


def _run_state(trainer: "Trainer") -> dict[str, Any]:
    schedulers = trainer.lr_scheduler_configs
    run: dict[str, Any] = {
        "global_step": trainer.global_step,
        "iteration": trainer.current_epoch,
        "updates_skipped": trainer.updates_skipped,
        "data": trainer.datamodule.state_dict(),
        "lr_scheduler": schedulers[0].state_dict() if schedulers else None,
        "callbacks": {callback.state_key: state for callback in trainer.callbacks if (state := callback.state_dict())},
    }
    trainer.lightning_module.on_save_checkpoint(run)
    return run


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
