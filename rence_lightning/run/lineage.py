"""The run that a checkpoint belongs to, and the directory in which a run that starts from it continues.

A run's `run.json` holds its identity, so that it is never guessed from the names of folders:

- A new run takes the configured directory, or the next free one of `NAME-2`, `NAME-3`, ... next to it, and records that
  it is a run named `NAME`. `last` and `best` mean the newest run of that name that has such a checkpoint.
- Resuming the newest checkpoint of a run continues the run in place.
- Resuming an older checkpoint, a copy of a checkpoint, or the checkpoint of a run of another name starts a branch: a
  new run with a separate directory, which records its parent and leaves all files of the parent unchanged.
"""

import shutil
from pathlib import Path
from typing import NamedTuple

from rence_lightning.errors import UserError
from rence_lightning.run.directory import CHECKPOINTS, Run, SavedAt, restore
from rence_lightning.run.lock import is_locked


def runs_named(wanted: Path) -> list[Run]:
    """The runs that were started with this `trainer.run_dir`, the newest first."""
    if not wanted.parent.is_dir():
        return []
    runs = [run for path in wanted.parent.iterdir() if (run := Run.open(path)) is not None]
    return sorted((run for run in runs if run.name == wanted.name), key=lambda run: -run.created)


def find_checkpoint(ckpt_path: str, wanted: Path) -> Path:
    """The checkpoint folder that `--ckpt_path` means.

    Args:
        ckpt_path: `last` or `best` (of the newest run named `wanted` that has one), a checkpoint folder, or a run
            directory (its last).
        wanted: The configured run directory; `Path()` where none is, and a path is all that can be given.

    Raises:
        UserError: There is no such checkpoint.
    """
    if ckpt_path in ("last", "best"):
        for run in runs_named(wanted):
            restore(run.directory / CHECKPOINTS)
            if (found := run.checkpoint(ckpt_path)) is not None:
                return found
        raise UserError(f"ckpt_path: no {ckpt_path} checkpoint of a run named {wanted}; give the path of a checkpoint")
    path = Path(ckpt_path).expanduser()
    restore(path / CHECKPOINTS)
    for candidate in (path, path / CHECKPOINTS / "last"):
        if (candidate / "state").exists():
            return candidate.resolve()
    before, names = ("ckpt_path: ", "'last', 'best', ") if wanted.name else ("", "")
    raise UserError(f"{before}{path} is not a checkpoint: give {names}a run directory or a checkpoint in it")


class Resumption(NamedTuple):
    """The run to continue in place; or None, with the record of a branch's origin and the reason for the branch."""

    run: Run | None
    parent: dict[str, str] | None = None
    reason: str = ""


def resume(checkpoint: Path, wanted: Path) -> Resumption:
    """Decides whether a checkpoint's run continues in place or a new run branches off (see the module's docstring)."""
    saved, directory = SavedAt.read(checkpoint), checkpoint.parent.parent
    owner = Run.open(directory) if checkpoint.parent.name == CHECKPOINTS else None
    parent = {"run": saved.run, "directory": str(directory), "checkpoint": checkpoint.name}
    if owner is None or owner.id != saved.run:
        return Resumption(None, {**parent, "directory": ""}, f"{checkpoint} is a copy outside its run")
    if owner.name != wanted.name or owner.directory.parent.resolve() != wanted.parent.resolve():
        return Resumption(None, parent, f"{checkpoint} belongs to {owner.directory}, and trainer.run_dir is {wanted}")
    if (newest := owner.checkpoints[-1]).resolve() != checkpoint.resolve():
        return Resumption(None, parent, f"{owner.directory} has continued to {newest.name}")
    return Resumption(owner)


def unfinished_evaluation(wanted: Path, config: str) -> Run | None:
    """The newest `validate` run of this name, if it has the same configuration, no results and no running process."""
    for run in runs_named(wanted)[:1]:
        begun, results = run.directory / "config.yaml", run.directory / "evaluations.jsonl"
        if begun.exists() and begun.read_text() == config and not results.exists() and not is_locked(run.directory):
            return run
    return None


def inherit(parent: Path, directory: Path) -> None:
    """Copies the logged figures of the parent into a branch, which drops those after its checkpoint when it opens."""
    for name in ("metrics.csv", "evaluations.jsonl"):
        if (parent / name).exists():
            shutil.copyfile(parent / name, directory / name)
