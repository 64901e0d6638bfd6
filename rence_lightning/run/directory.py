"""The folder that holds all of a run, and the names of its checkpoints."""

import re
from pathlib import Path

from rence_lightning.errors import UserError

CHECKPOINTS = "checkpoints"


def new_run_directory(wanted: Path) -> Path:
    """Creates the folder; where a run is in it already, the next free `NAME-2`, `NAME-3`, ... beside it.

    Raises:
        UserError: It cannot be created.
    """
    if wanted.is_file():
        raise UserError(f"trainer.run_dir: {wanted} is a file; name a folder")
    number = 1
    while True:
        path = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        try:
            path.mkdir(parents=True, exist_ok=False)
            return path
        except FileExistsError:
            if path.is_dir() and not any(path.iterdir()):
                return path
        except OSError as error:
            raise UserError(f"trainer.run_dir: cannot create {path} ({error.strerror}); name another folder") from error
        number += 1


def unfinished_evaluation(wanted: Path, config: str) -> Path | None:
    """The newest `validate` directory of this name, if it has the same configuration and no results yet."""
    for run in sorted(_runs(wanted), key=_number, reverse=True)[:1]:
        begun = run / "config.yaml"
        if begun.exists() and begun.read_text() == config and not (run / "evaluations.jsonl").exists():
            return run
    return None


def find_checkpoint(ckpt_path: str, wanted: Path) -> Path:
    """The checkpoint folder that `--ckpt_path` means.

    Args:
        ckpt_path: `last` or `best` (of the newest run at `wanted` that has one), a checkpoint folder, or a run
            directory (its last).
        wanted: The configured run directory.

    Raises:
        UserError: There is none.
    """
    if ckpt_path in ("last", "best"):
        for run in sorted(_runs(wanted), key=_number, reverse=True):
            if (run / CHECKPOINTS / ckpt_path).exists():
                return (run / CHECKPOINTS / ckpt_path).resolve()
        raise UserError(f"ckpt_path: no {ckpt_path} checkpoint in {wanted}/{CHECKPOINTS}; give the path of one")
    path = Path(ckpt_path)
    for candidate in (path, path / CHECKPOINTS / "last"):
        if (candidate / "state").exists():
            return candidate.resolve()
    raise UserError(
        f"ckpt_path: {path} is not a checkpoint: give 'last', 'best', a run directory or a checkpoint in it"
    )


def run_directory_of(checkpoint: Path) -> Path:
    """The run that a checkpoint belongs to, which is where a resumed run goes on."""
    return checkpoint.parent.parent


def _runs(wanted: Path) -> list[Path]:
    """The folder itself and those that `new_run_directory` made beside it."""
    if not wanted.parent.is_dir():
        return []
    name = re.compile(rf"{re.escape(wanted.name)}(-[0-9]+)?")
    return [path for path in wanted.parent.iterdir() if name.fullmatch(path.name)]


def _number(path: Path) -> int:
    suffix = path.name.rpartition("-")[2]
    return int(suffix) if suffix.isdigit() else 0
