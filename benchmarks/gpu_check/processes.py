"""The processes that a command has started, and the processes of those, however they were started (on Linux)."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")
MARK = "RENCE_GPU_CHECK"
"""Environment variable by which the processes of a part are known: every process inherits it."""


def can_list() -> bool:
    """Whether this system lists its processes in `/proc`."""
    return (PROC / "self" / "environ").exists()


def running(mark: str, session: int | None = None) -> set[int]:
    """Numbers of the running processes, this one excepted, that were started with an environment variable, or that
    belong to a session.

    Args:
        mark: Variable and value, `NAME=VALUE`.
        session: Number of the session; a process may overwrite its environment with its title, but stays in it.
    """
    found = set()
    for folder in PROC.iterdir() if can_list() else ():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        with suppress(OSError, IndexError):  # it has ended meanwhile, or is another user's
            state, _, _, its_session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            marked = mark.encode() in (folder / "environ").read_bytes().split(b"\0")
            if state not in "ZX" and (marked or int(its_session) == session):
                found.add(int(folder.name))
    return found


def wait_until_gone(mark: str, session: int | None, seconds: float) -> tuple[float, set[int]]:
    """Waits for the end of the processes of `running`; returns the seconds it took, and those that are left."""
    start = time.monotonic()
    while (left := running(mark, session)) and time.monotonic() - start < seconds:
        time.sleep(0.1)
    return time.monotonic() - start, left


def end(mark: str, session: int | None) -> int:
    """Kills the processes of `running`, and those that they start meanwhile; returns how many there were."""
    ended: set[int] = set()
    for _ in range(20):
        left = running(mark, session)
        if not left:
            break
        for process in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        ended |= left
        time.sleep(0.1)
    return len(ended)
