"""A run on disk: its directory, its identity, and the retention of its checkpoints."""

import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from rence_lightning.errors import UserError
from rence_lightning.run.provenance import provenance

CHECKPOINTS = "checkpoints"
IDENTITY = "run.json"
Command = Literal["fit", "warmup", "validate"]

_FOLDER = re.compile(r"iteration-(\d+)(?:-update-(\d+))?")


@dataclass(frozen=True)
class SavedAt:
    """The place of a checkpoint in its run; stored as `checkpoint.json` in its folder.

    Attributes:
        run: Identity of the run.
        iteration: Number of iterations done.
        update: Number of updates done in the next iteration; 0 between iterations.
        updates_total: Number of updates done since the start of the run.
        started: Local time at which the run, or the run that it branched from, was started, as ISO 8601.
    """

    run: str
    iteration: int
    update: int
    updates_total: int
    started: str = ""

    @property
    def name(self) -> str:
        """Name of the checkpoint's folder."""
        return f"iteration-{self.iteration:04d}" + (f"-update-{self.update:04d}" if self.update else "")

    def write(self, folder: Path) -> None:
        (folder / "checkpoint.json").write_text(json.dumps(asdict(self)) + "\n")

    @classmethod
    def read(cls, folder: Path) -> "SavedAt":
        """Raises `UserError` if the folder is not a complete checkpoint."""
        try:
            return cls(**json.loads((folder / "checkpoint.json").read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"ckpt_path: {folder} is not a complete checkpoint; give another") from error


@dataclass(frozen=True)
class Run:
    """A run directory and the contents of its `run.json`.

    Attributes:
        directory: Path of the run directory.
        name: Name that the run was started under, the last part of `trainer.run_dir`.
        command: Command that started the run.
        id: Unique identity of the run.
        created: Time of the run's start, in seconds since 1970.
        parent: Directory, identity and checkpoint of the run that this run branched from; None for any other run.
        sessions: Records of each start and resume, as `with_session` makes them.
        finished: Whether all files of the run are written.
        error: Error that ended the last session, None where there was none.
    """

    directory: Path
    name: str
    command: Command = "fit"
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: float = field(default_factory=time.time)
    parent: dict[str, str] | None = None
    sessions: tuple[dict[str, Any], ...] = ()
    finished: bool = False
    error: str | None = None

    @property
    def checkpoints(self) -> list[Path]:
        """Folders of the run's checkpoints, the oldest first."""
        folders = ((_FOLDER.fullmatch(each.name), each) for each in (self.directory / CHECKPOINTS).glob("iteration-*"))
        numbered = [(int(match[1]), int(match[2] or 0), each) for match, each in folders if match and each.is_dir()]
        return [each for *_, each in sorted(numbered)]

    def checkpoint(self, link: str) -> Path | None:
        """The checkpoint that `last` or `best` points to; None without the link."""
        path = self.directory / CHECKPOINTS / link
        return path.resolve() if path.exists() else None

    def folder_of(self, saved: SavedAt) -> Path:
        return self.directory / CHECKPOINTS / saved.name

    def _written(self, **changes: Any) -> "Run":
        """This run with changes, after its `run.json` is written."""
        run = replace(self, **changes)
        content = {key: value for key, value in asdict(run).items() if key != "directory"}
        with rewritten(run.directory / IDENTITY) as draft:
            draft.write_text(json.dumps(content, indent=1) + "\n")
        return run

    def with_session(self, checkpoint: Path | None, config: str | None, changed: list[str]) -> "Run":
        """This run with one more session, and not finished any more; written to disk.

        Args:
            checkpoint: Checkpoint that the session begins with, None for a new run.
            config: Name of the configuration file that it writes.
            changed: Settings that differ from those of the checkpoint.
        """
        session = {
            "started": time.time(),
            "launch": launch_id(),
            "checkpoint": checkpoint.name if checkpoint is not None else None,
            "config": config,
            "changed": changed,
            **provenance(Path.cwd()),
        }
        return self._written(sessions=(*self.sessions, session), finished=False, error=None)

    def failed(self, error: str) -> "Run":
        """This run, ended by an error."""
        return self._written(error=error)

    def ended(self) -> "Run":
        """This run, finished."""
        return self._written(finished=True)

    @classmethod
    def open(cls, directory: Path) -> "Run | None":
        """The run in a directory; None if there is none."""
        try:
            content = json.loads((directory / IDENTITY).read_text())
            return cls(directory, **{**content, "sessions": tuple(content["sessions"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None

    @classmethod
    def create(cls, wanted: Path, command: Command, parent: dict[str, str] | None = None) -> "Run":
        """Creates the directory of a new run: `wanted`, or the next free one of `NAME-2`, `NAME-3`, ... next to it.

        Raises:
            UserError: The directory cannot be created.
        """
        if wanted.is_file() or not wanted.name:
            what = "a file" if wanted.name else "the current folder"
            raise UserError(f"trainer.run_dir: {wanted} is {what}; name a folder")
        path, number = wanted, 1
        while not _claim(path):
            number += 1
            path = wanted.with_name(f"{wanted.name}-{number}")
        return cls(path, wanted.name, command, parent=parent)._written()


def _claim(path: Path) -> bool:
    """Whether this process, of several that start at once, has a folder that was empty or not there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            return False
        (path / IDENTITY).touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError as error:
        raise UserError(f"trainer.run_dir: cannot create {path} ({error.strerror}); name another folder") from error
    return True


def last_config(directory: Path) -> str:
    """The text of the configuration of a run's last session, empty where there is none."""
    sessions = run.sessions if (run := Run.open(directory)) is not None else ()
    file = directory / ((sessions[-1]["config"] if sessions else None) or "config.yaml")
    return file.read_text() if file.exists() else ""


def launch_id() -> str | None:
    """Identity of the elastic agent that started this process; None without one, or with one that was given no name."""
    launch = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return None if launch == "none" else launch  # torchrun calls all of its launches "none" unless it is told a name


# ---- retention ------------------------------------------------------------------------------------------------------


def point(run: Run, link: Literal["last", "best"], folder: Path) -> None:
    """Points a link to a checkpoint of the run, atomically."""
    draft = run.directory / CHECKPOINTS / f".tmp-{link}"
    draft.unlink(missing_ok=True)
    draft.symlink_to(folder.name, target_is_directory=True)
    draft.replace(draft.with_name(link))


def restore(checkpoints: Path) -> None:
    """Puts back a checkpoint that was being replaced by a newer one of its name when the process was killed."""
    for older in checkpoints.glob(".old-iteration-*"):
        folder = older.with_name(older.name.removeprefix(".old-"))
        if not folder.exists():
            older.replace(folder)


def prune(run: Run, keep_last: int) -> None:
    """Removes the run's checkpoints, except the newest `keep_last` and those that `last` and `best` point to."""
    kept = {run.checkpoint("last"), run.checkpoint("best")}
    for folder in run.checkpoints[:-keep_last]:
        if folder.resolve() not in kept:
            folder.replace(folder.with_name(f".gone-{folder.name}"))  # a kill must not leave half of it in its place
    for gone in (run.directory / CHECKPOINTS).glob(".gone-*"):
        shutil.rmtree(gone, ignore_errors=True)


@contextmanager
def rewritten(path: Path) -> Iterator[Path]:
    """A new file that replaces `path` when the block ends, so that readers find either the old or the new file."""
    draft = path.with_name(f".tmp-{path.name}")
    yield draft
    draft.replace(path)
