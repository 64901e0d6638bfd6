"""Which run a checkpoint belongs to, and where a run that starts from it goes on.

A run's `run.json` holds its identity, so that it is never guessed from the names of folders:

- A new run takes the configured directory, or the next free `NAME-2`, `NAME-3`, ... beside it, and writes down that it
  is a run called `NAME`. `last` and `best` mean the newest run of that name that has such a checkpoint.
- Resuming the newest checkpoint of a run continues it in place.
- Resuming an older checkpoint, a copy of one, or the checkpoint of a run of another name branches: the new run has a
  directory of its own, writes down its parent, and leaves all files of the parent as they are.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from rence_lightning.errors import UserError
from rence_lightning.run.directory import CHECKPOINTS, Command, Run, SavedAt
from rence_lightning.run.lock import is_locked


def runs_named(wanted: Path, command: Command) -> list[Run]:
    """The runs that were started with this `trainer.run_dir`, the newest first."""
    if not wanted.parent.is_dir():
        return []
    runs = [run for path in wanted.parent.iterdir() if (run := Run.open(path)) is not None]
    return sorted((r for r in runs if r.name == wanted.name and r.command == command), key=lambda r: -r.created)


def find_checkpoint(ckpt_path: str, wanted: Path) -> Path:
    """The checkpoint folder that `--ckpt_path` means.

    Args:
        ckpt_path: `last` or `best` (of the newest run named `wanted` that has one), a checkpoint folder, or a run
            directory (its last).
        wanted: The configured run directory.

    Raises:
        UserError: There is none.
    """
    if ckpt_path in ("last", "best"):
        for run in runs_named(wanted, "fit"):
            if (found := run.checkpoint(ckpt_path)) is not None:
                return found
        raise UserError(f"ckpt_path: no {ckpt_path} checkpoint of a run named {wanted}; give the path of one")
    path = Path(ckpt_path).expanduser()
    for candidate in (path, path / CHECKPOINTS / "last"):
        if (candidate / "state").exists():
            return candidate.resolve()
    raise UserError(
        f"ckpt_path: {path} is not a checkpoint: give 'last', 'best', a run directory or a checkpoint in it"
    )


@dataclass(frozen=True)
class Resumption:
    """Where a run that starts from a checkpoint goes on.

    Attributes:
        run: The run to continue in place, None where a new one branches off.
        parent: What the new run writes down of its origin.
        reason: Why it branches, for the user.
    """

    run: Run | None
    parent: dict[str, str] | None = None
    reason: str = ""


def resume(checkpoint: Path, wanted: Path) -> Resumption:
    """Decides whether a checkpoint's run continues in place or a new run branches off (see the module's text)."""
    saved = SavedAt.read(checkpoint)
    owner = Run.open(checkpoint.parent.parent) if checkpoint.parent.name == CHECKPOINTS else None
    parent = {"run": saved.run, "directory": str(checkpoint.parent.parent), "checkpoint": checkpoint.name}
    if owner is None or owner.id != saved.run:
        return Resumption(None, {**parent, "directory": ""}, f"{checkpoint} is a copy outside of its run")
    if owner.name != wanted.name or owner.directory.parent.resolve() != wanted.parent.resolve():
        return Resumption(None, parent, f"{checkpoint} belongs to {owner.directory}, and trainer.run_dir is {wanted}")
    newest = owner.checkpoints[-1]
    if newest.resolve() != checkpoint.resolve():
        return Resumption(None, parent, f"{owner.directory} has gone on to {newest.name}")
    return Resumption(owner)


def unfinished_evaluation(wanted: Path, config: str) -> Run | None:
    """The newest `validate` run of this name, if it has the same configuration, no results yet and no process."""
    for run in runs_named(wanted, "validate")[:1]:
        begun = run.directory / "config.yaml"
        same = begun.exists() and begun.read_text() == config
        if same and not (run.directory / "evaluations.jsonl").exists() and not is_locked(run.directory):
            return run
    return None


def inherit(parent: Path, directory: Path) -> None:
    """Copies the figures of the parent's past into a branch, which cuts them to its checkpoint when it opens them."""
    for name in ("metrics.csv", "evaluations.jsonl"):
        if (parent / name).exists():
            shutil.copyfile(parent / name, directory / name)
