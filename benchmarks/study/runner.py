"""Execution of runs: several at a time, each in a process of its own."""

import json
import multiprocessing
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from benchmarks.command import RunFailed
from benchmarks.study import worker


@dataclass(frozen=True)
class Ended:
    """A run that has ended with a result.

    Attributes:
        run_dir: Run directory, which is removed when its result is kept.
        error: Message of a run that starved or diverged; empty otherwise.
        cpu_seconds: User and system seconds of the run.
        wall_seconds: Seconds on the clock.
    """

    run_dir: Path
    error: str
    cpu_seconds: float
    wall_seconds: float


class Runner:
    """Executes runs of `fit`, `processes` at a time, with one thread each.

    Args:
        folder: Folder of the runs in progress and of those that failed.
        processes: Number of runs at a time.
        work: What a process does, given the arguments of a run and its folder.
    """

    def __init__(self, folder: Path, processes: int, work: Callable[[list[str], str], None] = worker.fit) -> None:
        self.folder, self.processes, self.work = folder, processes, work
        # The process that imports the packages for all runs does not search the current folder by itself.
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")]))
        os.environ["OMP_NUM_THREADS"] = "1"
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([worker.__name__])

    def run(self, runs: Mapping[str, Sequence[str]], keep: Callable[[str, Ended], str]) -> None:
        """Executes runs, and prints a line for each.

        Args:
            runs: Arguments of `fit` without the run directory, by the name of the run.
            keep: Function that stores the result of a run, given its name, and returns its accuracy for people. If the
                process is interrupted, the runs in progress are ended, and start from scratch next time.

        Raises:
            RunFailed: A run neither finished, starved nor diverged; the others were run.
        """
        alive: list[tuple[str, BaseProcess, Path]] = []
        waiting, failures, number = list(runs.items()), [], 0
        try:
            while waiting or alive:
                while waiting and len(alive) < self.processes:
                    name, arguments = waiting.pop(0)
                    alive.append((name, *self._start(arguments)))
                wait([process.sentinel for _, process, _ in alive])
                for name, process, folder in [each for each in alive if not each[1].is_alive()]:
                    alive.remove((name, process, folder))
                    number += 1
                    if (folder / worker.ENDED).exists():
                        said = keep(name, Ended(folder / "run", **json.loads((folder / worker.ENDED).read_text())))
                        shutil.rmtree(folder)
                    else:
                        failures.append(f"{name}: exit code {process.exitcode}, {folder / 'log.txt'}\n{_end(folder)}")
                        said = f"failed: {failures[-1]}"
                    print(f"  {number:>3}/{len(runs)}  {name}  {said}", flush=True)
        finally:
            for _, process, _ in alive:
                process.terminate()
            for _, process, _ in alive:
                process.join(10)
                process.kill()
        if failures:
            raise RunFailed(f"{len(failures)} of {len(runs)} runs failed, the first: {failures[0]}")

    def _start(self, arguments: Sequence[str]) -> tuple[BaseProcess, Path]:
        folder = self.folder / blake2b("\n".join(arguments).encode(), digest_size=8).hexdigest()
        shutil.rmtree(folder, ignore_errors=True)  # an interrupted run starts from scratch, which costs seconds
        folder.mkdir(parents=True)
        run_dir = f"--trainer.run_dir={folder / 'run'}"
        process = self._context.Process(target=self.work, args=([*arguments, run_dir], str(folder)))
        process.start()
        return process, folder


def _end(folder: Path) -> str:
    """The last lines of a run's output."""
    log = folder / "log.txt"
    return "\n".join(log.read_text(encoding="utf-8").splitlines()[-10:]) if log.exists() else ""


def commit() -> str:
    """The commit of the working directory, and whether anything but the results of benchmarks was changed since."""
    elsewhere = ("--", ":/", ":(top,exclude)benchmarks/*/results/*")
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        changes = _git("status", "--porcelain", "--untracked-files=no", *elsewhere)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + (" and uncommitted changes" if changes else "")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()
