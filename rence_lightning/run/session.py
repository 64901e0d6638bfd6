"""One command on a run: its directory, new or resumed, the lock on it, its configuration and its loggers."""

import json
import os
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.loggers import Logger

from rence_lightning.distributed import gather, on_rank_zero
from rence_lightning.errors import UserError
from rence_lightning.run.changed_settings import Change, changes
from rence_lightning.run.directory import Command, Run, SavedAt, launch_id
from rence_lightning.run.lineage import find_checkpoint, inherit, resume, runs_named, unfinished_evaluation
from rence_lightning.run.lock import Lock
from rence_lightning.run.loggers import run_loggers


class Session:
    """Opens a run directory, and keeps it until the command ends.

    Args:
        wanted: Configured run directory.
        loggers: Loggers of the user, in addition to those of the run directory.

    Attributes:
        run: Identity and directory of the run.
        run_dir: Directory of the run; the wanted one until it is opened.
        started: Local time at which the run was started; that of the checkpoint's run where it starts from one.
        resumed_from: Checkpoint that the run started from, None for a new run.
        resumed_in_place: Whether the run continues in the directory of that checkpoint.
        branch_reason: Reason why a resumed run does not continue in place, as shown to the user.
        changed_settings: Settings that differ from those of the checkpoint.
        config_yaml: Complete configuration of the run; None for a run that was started without one.
        already_finished: Whether a resumed run has all of its iterations and files, so that no file is touched.
        opened: Whether the run directory has been created or opened.
        loggers: All loggers of the run.
    """

    run: Run
    started: datetime

    def __init__(self, wanted: Path, loggers: list[Logger]) -> None:
        self.run_dir = self._wanted = wanted
        self.resumed_from: Path | None = None
        self.resumed_in_place = False
        self.branch_reason = ""
        self.changed_settings: list[Change] = []
        self.config_yaml: str | None = None
        self.already_finished = False
        self.opened = False
        self._command: Command = "fit"
        self.loggers: list[Logger] = []
        self._extra_loggers = loggers
        self._lock: Lock | None = None

    def find(self, ckpt_path: str | None, command: Command) -> Path | None:
        """The checkpoint to start from, the same on every rank."""
        self._command, training = command, command != "validate"
        if command == "warmup":
            self.run_dir = self._wanted = self._wanted.with_name(f"{self._wanted.name}-warmup")
        wanted = self._wanted
        start = on_rank_zero(lambda: _continued(ckpt_path, wanted)) if training else ckpt_path
        if start is not None:
            self.resumed_from = on_rank_zero(lambda: find_checkpoint(start, wanted))
            owner = Run.open(self.resumed_from.parents[1])
            if training and owner is not None and owner.command != command:
                go_on = f"to go on from its policy, give --model.policy {owner.directory / 'hf'}"
                raise UserError(f"ckpt_path: {self.resumed_from} is of {owner.command}, not of {command}; {go_on}")
        self.started = on_rank_zero(self._started)
        if self.resumed_from is not None and training and self.config_yaml is not None:
            saved = self.resumed_from / "config.yaml"
            if saved.exists():
                self.changed_settings = changes(saved.read_text(), self.config_yaml)
        return self.resumed_from

    def _started(self) -> datetime:
        """The time at which the run was started, that of an unfinished evaluation if the command continues one."""
        if self.resumed_from is not None and (saved := SavedAt.read(self.resumed_from)).started:
            return datetime.fromisoformat(saved.started)
        unfinished = None if self._command != "validate" else self._unfinished()
        return datetime.now() if unfinished is None else datetime.fromtimestamp(unfinished.created)

    def _unfinished(self) -> Run | None:
        """The evaluation that the command continues."""
        wanted = self._wanted.with_name(f"{self._wanted.name}-validate")
        return unfinished_evaluation(wanted, self.config_yaml) if self.config_yaml is not None else None

    def open(self, done: bool, step: int, problems: dict[str, Any] | None, is_global_zero: bool) -> None:
        """Opens the run directory on every rank, unless the run is finished and has nothing left to do.

        Args:
            done: Whether all iterations are done.
            step: Number of updates done, at which the figures of a resumed run continue.
            problems: Account of the training problems, for `training_problems.json`; None for no training.
            is_global_zero: Whether this rank writes.
        """
        if done and self._command != "validate" and self.resumed_from is not None:
            owner = Run.open(self.resumed_from.parents[1])
            self.already_finished = on_rank_zero(lambda: owner is not None and owner.finished)
            if self.already_finished:
                self.run_dir = self.resumed_from.parents[1]
                return
        self.run, self.resumed_in_place, self.branch_reason = on_rank_zero(self._open_run)
        self.run_dir = self.run.directory
        if is_global_zero:
            if problems is not None:
                (self.run_dir / "training_problems.json").write_text(json.dumps(problems, indent=1) + "\n")
            changed = [str(change) for change in self.changed_settings]
            self.run = self.run.with_session(self.resumed_from, self._write_config(), changed)
        self.loggers = run_loggers(self.run_dir, step, self._extra_loggers, is_global_zero)
        if is_global_zero and self.config_yaml is not None:
            for logger in self._extra_loggers:
                logger.log_hyperparams(yaml.safe_load(self.config_yaml))
        gather(None)  # a rank that could not open the run ends all of them, and nothing is saved
        self.opened = True

    def finish(self) -> None:
        """Writes down that the run has all of its files; called on rank zero."""
        self.run = self.run.ended()

    def close(self) -> None:
        """Releases the lock on the run directory."""
        if self._lock is not None:
            self._lock.release()

    def _open_run(self) -> tuple[Run, bool, str]:
        """The run to write to, locked; whether it is the checkpoint's own run, and the reason if it is not."""
        checkpoint = self.resumed_from
        if self._command == "validate":
            wanted = self._wanted.with_name(f"{self._wanted.name}-validate")
            return self._locked(self._unfinished() or Run.create(wanted, "validate")), False, ""
        if checkpoint is None:
            return self._locked(Run.create(self._wanted, self._command)), False, ""
        if (run := resume(checkpoint, self._wanted).run) is not None:
            self._locked(run)
        resumption = resume(checkpoint, self._wanted)  # again, because nobody can save into the run any more
        if resumption.run is not None:
            return resumption.run, True, ""
        self.close()
        branch = self._locked(Run.create(self._wanted, self._command, resumption.parent))
        if resumption.parent and resumption.parent["directory"]:
            inherit(Path(resumption.parent["directory"]), branch.directory)
        return branch, False, resumption.reason

    def _locked(self, run: Run) -> Run:
        self._lock = Lock(run.directory)
        return run

    def _write_config(self) -> str | None:
        """Writes the configuration, a changed one to a separate file; returns the name of the file."""
        if self.config_yaml is None:
            return None
        file = self.run_dir / "config.yaml"
        if self.resumed_from is not None and file.exists() and file.read_text() != self.config_yaml:
            stem, number = f"config-from-{self.resumed_from.name}", 1
            file = self.run_dir / f"{stem}.yaml"
            while file.exists() and file.read_text() != self.config_yaml:
                number += 1
                file = self.run_dir / f"{stem}-{number}.yaml"
        file.write_text(self.config_yaml)
        return file.name


def _continued(ckpt_path: str | None, wanted: Path) -> str | None:
    """The checkpoint to start from: that of the configuration, or after a restart the newest one of the run itself.

    A run that was ended before its first checkpoint starts anew, in the same directory.
    """
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0" or (launch := launch_id()) is None:
        return ckpt_path
    own = (run for run in runs_named(wanted) if run.sessions and run.sessions[-1].get("launch") == launch)
    if (run := next(own, None)) is not None:
        if run.checkpoints:
            return str(run.directory)
        shutil.rmtree(run.directory)
    return ckpt_path
