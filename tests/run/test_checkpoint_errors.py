"""Checkpoints that cannot be written: the cause, the disk that is meant, and what to do about it."""

import resource
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from arithmetic_run import fresh_start, make_data, make_module, make_trainer
from two_processes import in_two_processes

from rence_lightning.callbacks import Checkpoint
from rence_lightning.errors import CheckpointError
from rence_lightning.policy import load_policy
from rence_lightning.run.checkpoint import _together, save_checkpoint
from rence_lightning.run.directory import SavedAt
from rence_lightning.training.fabric import make_fabric
from rence_lightning.training.strategy import FullyShardStrategy


def to_a_full_disk() -> None:
    """torch raises where its writer was, and the cause is below that."""
    with Path("/dev/full").open("wb") as file:
        torch.save({"weight": torch.zeros(100_000)}, file)


def shards_to_a_full_disk() -> None:
    """torch sends the error of a rank to the others, without the one below it."""
    raise dcp.CheckpointException("write", {1: (RuntimeError("unexpected pos 704 vs 598"), [])})  # type: ignore[dict-item]


def without_permission() -> None:
    raise PermissionError(13, "Permission denied", "state")


def an_invalid_part() -> None:
    raise ValueError("the generation config sets a temperature without do_sample")


@pytest.mark.parametrize(
    ("write", "free", "words"),
    [
        (to_a_full_disk, 76, r"\[Errno 28\] No space left on device \(76\.0 GB are free on the disk of .*\)"),
        (shards_to_a_full_disk, 0, r"unexpected pos 704 vs 598 \(0\.0 GB"),
        (without_permission, 76, r"\[Errno 13\] Permission denied: 'state' \(76\.0 GB"),
        (an_invalid_part, 76, r"the generation config sets a temperature"),
    ],
)
@pytest.mark.parametrize("earlier", [False, True])
def test_space_is_asked_for_only_where_it_is_missing(
    write: Callable[[], None], free: int, words: str, earlier: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = tmp_path / "run" / "checkpoints"
    asked: list[Path] = []

    def disk_usage(path: Path) -> Any:
        asked.append(path)
        return SimpleNamespace(free=free * 10**9)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    if earlier:
        (checkpoints / "iteration-0001").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=rf"^cannot write the checkpoint .*iteration-0002: {words}") as caught:
        _together(checkpoints / "iteration-0002", write)
    assert asked == [checkpoints if earlier else tmp_path], (
        "the disk that it is written to, whose folder may be missing"
    )
    space = "free some space and " if write in (to_a_full_disk, shards_to_a_full_disk) else ""
    follows = (
        f"earlier ones are intact: {space}continue with --ckpt_path last" if earlier else f"{space}start the run again"
    )
    assert str(caught.value).endswith(f"; {follows}")


def test_nothing_is_written_elsewhere_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state may be larger than the disk of temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    fresh_start()
    make_trainer(tmp_path / "run", [Checkpoint(every=1)], max_iterations=1).fit(make_module(), make_data())
    state = torch.load(tmp_path / "run" / "checkpoints" / "last" / "state", weights_only=True)
    assert set(state) == {"policy", "optimizer", "run"}


def fail_on_rank_zero(rank: int, sharded: bool, background: bool, folder: Path) -> None:
    """Runs in each of two processes: rank 0 alone may not write."""
    fabric = make_fabric("cpu", 2, 1, FullyShardStrategy() if sharded else "ddp", "32-true")
    fabric.launch()
    policy = load_policy("embedded:arithmetic", empty=sharded and rank > 0)
    module = fabric.setup_module(policy)
    optimizer = fabric.setup_optimizers(torch.optim.AdamW(policy.parameters()))
    if rank == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    with pytest.raises(CheckpointError, match="iteration-0002: "):
        saved = SavedAt("run", 2, 0, 4)
        save_checkpoint(fabric, folder, module, optimizer, {}, {}, saved, None, print, background)()
    assert not folder.exists()


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True], ids=["ddp", "shards"])
@pytest.mark.parametrize("background", [False, True], ids=["at once", "in the background"])
def test_no_rank_waits_for_one_that_cannot_write(sharded: bool, background: bool, tmp_path: Path) -> None:
    in_two_processes(fail_on_rank_zero, sharded, background, tmp_path / "checkpoints" / "iteration-0002")
