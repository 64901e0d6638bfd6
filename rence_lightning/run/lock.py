"""A lock that admits one process at a time to a run directory."""

import fcntl
import os
from pathlib import Path

from rence_lightning.errors import UserError


class Lock:
    """Prevents a second process from writing to a run; the operating system releases the lock when the process ends.

    Args:
        directory: Path of the run directory.

    Raises:
        UserError: Another process is writing to the run.
    """

    def __init__(self, directory: Path) -> None:
        self._file = (directory / ".lock").open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.seek(0)
            process = self._file.read().strip()
            self.release()
            raise UserError(
                f"{directory} is in use by another process ({process}); wait until it ends, or stop it"
            ) from error
        except OSError:  # a network file system without locks
            return
        self._file.truncate(0)
        self._file.write(f"{os.uname().nodename} {os.getpid()}")
        self._file.flush()

    def release(self) -> None:
        self._file.close()


def is_locked(directory: Path) -> bool:
    """Whether a process is writing to the run directory."""
    try:
        Lock(directory).release()
    except UserError:
        return True
    return False
