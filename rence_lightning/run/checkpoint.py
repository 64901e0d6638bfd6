"""Saving and loading everything that the next step depends on.

A checkpoint is a folder:

- `state`: policy (its adapters alone, where these are all that is trained), optimizer and the run's own state; a file,
  or with sharding a folder of shards.
- `rng-RANK`: states of the random number generators of a rank.
- `checkpoint.json`: the run that the checkpoint belongs to, and its place in it.
- `config.yaml`: settings of the run.
- `adapters.json`: the model to which the adapters were added, if the policy has any.
- `hf`: configuration and tokenizer of the policy, so that the policy can be loaded without the settings.

The folder is written under another name and then renamed, so that every checkpoint that exists is complete. It stores
plain types only, which are read with `weights_only`. It can be loaded into any strategy and any number of processes.
"""

import os
import random
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from lightning.fabric import Fabric
from lightning.fabric.strategies import ModelParallelStrategy
from lightning.fabric.wrappers import _FabricModule, _FabricOptimizer
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.nn import Module
from torch.optim import Optimizer

from rence_lightning.distributed import gather, longest_wait
from rence_lightning.errors import CheckpointError, one_line
from rence_lightning.policy import Policy
from rence_lightning.run.adapter_base import Base, check_base
from rence_lightning.run.directory import SavedAt

FULL = 10**9
"""Free bytes below which a disk is taken for full: the error that torch sends to other ranks does not say so."""


def save_checkpoint(
    fabric: Fabric,
    folder: Path,
    policy: Module,
    optimizer: Optimizer,
    run: dict[str, Any],
    rng: dict[str, Any],
    saved: SavedAt,
    config: str | None,
    publish: Callable[[Path], None],
    background: bool,
) -> Callable[[], None]:
    """Begins to write a checkpoint, and returns the function that ends it; every rank must call both.

    Args:
        fabric: Fabric that has set up policy and optimizer.
        folder: Folder of the checkpoint, which appears once all of it is on its disk.
        policy: Policy, of which the part that is trained is saved.
        optimizer: Its optimizer.
        run: Further state that the next step depends on, in plain types.
        rng: Random state of this rank, a `rng_state`.
        saved: Progress of the run.
        config: Settings of the run as YAML, None if it has none.
        publish: Function that rank 0 calls with the folder once it has appeared.
        background: Whether a thread writes a copy of the state in main memory, while the caller goes on; otherwise the
            returned function writes the state itself.

    Raises:
        CheckpointError: A rank cannot write, for example to a full disk; raised on every rank, here or at the end.
    """
    draft, plain, zero = folder.with_name(f".tmp-{folder.name}"), _unwrapped(policy), fabric.is_global_zero
    sharded = isinstance(fabric.strategy, ModelParallelStrategy)
    state: dict[str, Any] = {}

    def prepare() -> None:
        if zero:
            shutil.rmtree(draft, ignore_errors=True)
            (draft / "state" if sharded else draft).mkdir(parents=True)

    def collect() -> None:
        base = Base.of(plain)
        if sharded or zero:
            inner = cast(_FabricOptimizer, optimizer).optimizer
            state.update(_state(plain.trained_part(), inner, run, sharded, background))
        torch.save(rng, draft / f"rng-{fabric.global_rank}")
        if zero:
            saved.write(draft)
            if sharded:
                torch.save({"run": run}, draft / "state" / "meta.pt")
            if config is not None:
                (draft / "config.yaml").write_text(config)
            if base is not None:
                base.write(draft)
            plain.save_config(draft / "hf")

    def write() -> None:
        if sharded:
            dcp.save(state, checkpoint_id=draft / "state", process_group=group)  # fails on every rank if on one
        elif zero:
            with (draft / "state").open("wb") as file:
                torch.save(state, file)
        state.clear()
        if zero:
            _put_in_place(draft, folder)
            publish(folder)

    with ExitStack() as cleanup:
        if zero:  # frees the space of an incomplete checkpoint on a full disk
            cleanup.callback(shutil.rmtree, draft, ignore_errors=True)
        for step in (prepare, collect):
            _together(folder, step)
        group, end = None, write
        if background:
            if sharded:  # not the group of the exchanges and of training, which go on
                group = dist.new_group(backend="gloo", timeout=longest_wait())
                cleanup.callback(dist.destroy_process_group, group)
            end = ThreadPoolExecutor(1, "checkpoint").submit(write).result
        rest = cleanup.pop_all()

    def finish() -> None:
        with rest:
            _together(folder, end)

    return finish


def _state(part: Module, optimizer: Optimizer, run: dict[str, Any], sharded: bool, copied: bool) -> dict[str, Any]:
    """What a checkpoint holds of the policy's trained part and its optimizer: this rank's shards, or all and `run`."""
    state: dict[str, Any]
    if sharded:  # in the files of Fabric, which loads them
        state = {"policy": get_model_state_dict(part), "optimizer": get_optimizer_state_dict(part, optimizer)}
    else:  # not by Fabric, which writes all of it into memory and `$TMPDIR` first
        state = {"policy": part.state_dict(), "optimizer": optimizer.state_dict(), "run": run}
    if copied:
        stager = DefaultStager(StagingOptions(False, False, False, False))  # which copies before it returns
        state = cast(dict[str, Any], stager.stage(state))
        stager.close()  # which otherwise keeps the copies
    return state


def _together(folder: Path, step: Callable[[], None]) -> None:
    """Takes a step on every rank; if it fails on one rank, it fails on all, so that none waits for another for ever."""
    failure: BaseException | None = None
    try:
        step()
    except (Exception, dcp.CheckpointException) as error:
        failure = error
    reasons = [reason for reason in gather(None if failure is None else _reason(failure)) if reason is not None]
    if not reasons:
        return
    disk = next(parent for parent in folder.absolute().parents if parent.exists())
    free = shutil.disk_usage(disk).free
    space = "free some space and " * (free < FULL or "No space left" in reasons[0] or "quota exceeded" in reasons[0])
    earlier = any(folder.parent.glob("iteration-*"))
    fix = "earlier ones are intact: {}continue with --ckpt_path last" if earlier else "{}start the run again"
    raise CheckpointError(
        f"cannot write the checkpoint {folder}: {reasons[0]} ({free / 1e9:.1f} GB are free on the disk of {disk}); "
        f"{fix.format(space)}"
    ) from failure


def _reason(error: BaseException) -> str:
    """The cause of an error, in one line: torch's own say where its writer was when the disk refused to write."""
    if isinstance(error, dcp.CheckpointException):
        error, _ = next(iter(error.failures.values()))
    below = error.__cause__ or error.__context__
    return one_line(below if isinstance(error, RuntimeError) and isinstance(below, OSError) else error)


def load_checkpoint(fabric: Fabric, folder: Path, policy: Module, optimizer: Optimizer) -> dict[str, Any]:
    """Restores policy (`checked_part`), optimizer and random number generators; returns the `run` saved with them."""
    part = checked_part(folder, _unwrapped(policy))
    if _has_shards(folder) and not isinstance(fabric.strategy, ModelParallelStrategy):
        run = read_state(folder, part, cast(_FabricOptimizer, optimizer).optimizer)
    else:
        run = fabric.load(folder / "state", {"policy": part, "optimizer": optimizer}, weights_only=True)["run"]
    rng = folder / f"rng-{fabric.global_rank}"
    if rng.exists():  # where a run is resumed on more ranks, the additional ranks start from the seed
        _set_rng_state(torch.load(rng, weights_only=True))
    return run


def load_policy_weights(fabric: Fabric, folder: Path, policy: Module) -> dict[str, Any]:
    """Loads the policy alone, without reading the optimizer's state; returns the `run` saved with it."""
    part = checked_part(folder, _unwrapped(policy))
    if _has_shards(folder) and isinstance(fabric.strategy, ModelParallelStrategy):
        return cast(dict[str, Any], fabric.load(folder / "state", {"policy": part}, weights_only=True)["run"])
    return read_state(folder, part)


def checked_part(folder: Path, policy: Policy) -> Module:
    """The part of a policy that a checkpoint holds, after a comparison of what is below it.

    Raises:
        UserError: The checkpoint holds adapters of another model than the policy's.
    """
    check_base(folder, policy)
    return policy.trained_part()


def _has_shards(folder: Path) -> bool:
    return (folder / "state").is_dir()


def read_state(folder: Path, policy: Module, optimizer: Optimizer | None = None) -> dict[str, Any]:
    """Reads a file, or the shards of several processes into an unsharded policy (and optimizer); returns the `run`."""
    if not _has_shards(folder):
        # Mapped into memory, so that the optimizer's state is not read; every rank takes its shards from the file.
        whole: dict[str, Any] = torch.load(folder / "state", weights_only=True, mmap=True, map_location="cpu")
        set_model_state_dict(policy, whole["policy"], options=StateDictOptions(full_state_dict=True))
        return cast(dict[str, Any], whole["run"])
    state: dict[str, Any] = {"policy": get_model_state_dict(policy)}
    if optimizer is not None:
        state["optimizer"] = get_optimizer_state_dict(policy, optimizer)
    dcp.load(state, checkpoint_id=folder / "state", no_dist=True)
    set_model_state_dict(policy, state["policy"])
    if optimizer is not None:
        set_optimizer_state_dict(policy, optimizer, state["optimizer"])
    return cast(dict[str, Any], torch.load(folder / "state" / "meta.pt", weights_only=True)["run"])


def _unwrapped(policy: Module) -> Policy:
    return cast(Policy, cast(_FabricModule, policy).module)


def _put_in_place(draft: Path, folder: Path) -> None:
    """Renames a finished draft; an older folder of that name is kept until the new one has replaced it."""
    for path in (*draft.rglob("*"), draft):  # a rename may otherwise reach the disk before the data it names
        _fsync(path)
    older = folder.with_name(f".old-{folder.name}")
    shutil.rmtree(older, ignore_errors=True)
    if folder.exists():
        folder.replace(older)
    draft.replace(folder)
    _fsync(folder.parent)
    shutil.rmtree(older, ignore_errors=True)


def rng_state() -> dict[str, Any]:
    """The states of the random number generators of this process."""
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [name, np.asarray(keys).tolist(), *rest],  # `weights_only` reads no arrays of NumPy
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _set_rng_state(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(tuple(state["numpy"]))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
