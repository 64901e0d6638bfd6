"""One process at a time in a run directory."""

import fcntl
import os
from pathlib import Path
from typing import TextIO

from rence_lightning.errors import UserError


class Lock:
    """Keeps a second process from writing into a run; the operating system releases it when the process ends.

    Args:
        directory: Path of the run directory.

    Raises:
        UserError: Another process is running it.
    """

    def __init__(self, directory: Path) -> None:
        self._file: TextIO | None = (directory / ".lock").open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.seek(0)
            process = self._file.read().strip()
            self._file.close()
            raise UserError(
                f"{directory} is in use by another process ({process}); wait for its end, or stop it"
            ) from error
        except OSError:  # a network disk without locks
            return
        self._file.truncate(0)
        self._file.write(f"{os.uname().nodename} {os.getpid()}")
        self._file.flush()

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def is_locked(directory: Path) -> bool:
    """Whether a process is running in the directory."""
    try:
        Lock(directory).release()
    except UserError:
        return True
    return False
