"""Execution of the runs of a study: several at a time, each once, resumable."""

import json
import multiprocessing
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from hashlib import blake2b
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.command import RunFailed
from benchmarks.machine import processor
from benchmarks.study import worker
from benchmarks.study.budgets import POINTS
from benchmarks.study.jobs import Job
from benchmarks.study.outcome import BUDGETS, Outcome, Point, append_outcome, read_outcomes
from benchmarks.study.spec import Spec
from rence_lightning.errors import UserError


class Runner:
    """Executes jobs, `processes` at a time.

    Args:
        spec: Specification of the study.
        results: Folder of the results, `STUDY.jsonl`.
        folder: Folder of the runs in progress and of those that failed.
        processes: Number of runs at a time, with one thread each.
        work: What a process does, given the arguments of a run and its folder.
    """

    def __init__(
        self,
        spec: Spec,
        results: Path,
        folder: Path,
        processes: int,
        work: Callable[[list[str], str], None] = worker.run,
    ) -> None:
        self.spec = spec
        self.results = results
        self.folder = folder
        self.processes = processes
        # The process that imports the packages for all runs does not search the current folder by itself.
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")]))
        os.environ["OMP_NUM_THREADS"] = "1"
        self.work = work
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([worker.__name__])
        self._alive: set[ForkServerProcess] = set()
        self._lock = threading.Lock()
        self._stopped = False
        self._commit = commit()
        self.outcomes = list(read_outcomes(results)) if any(results.glob("*.jsonl")) else []

    def run(self, jobs: Iterable[Job], title: str) -> dict[Job, Outcome]:
        """Returns the outcomes of all jobs; those whose command was run before are not run again.

        Raises:
            RunFailed: A run neither finished, starved nor diverged.
        """
        jobs = list(dict.fromkeys(jobs))
        self._refuse_other_inputs(jobs)
        done = {outcome.command: outcome for outcome in self.outcomes}
        waiting: dict[tuple[str, ...], list[Job]] = {}
        for job in jobs:
            if job.command not in done:
                waiting.setdefault(job.command, []).append(job)
        bars = progress_bars()
        failures: list[str] = []
        with bars:
            task = bars.add_task(title, total=len(waiting))
            bars.console.print(f"{title}: {len(jobs)} runs, {len(waiting)} of them to do")
            pool = ThreadPoolExecutor(self.processes)
            try:
                futures = {pool.submit(self._execute, group[0]): group for group in waiting.values()}
                for number, future in enumerate(as_completed(futures), start=1):
                    job = futures[future][0]
                    try:
                        outcome = future.result()
                    except RunFailed as error:
                        failures.append(str(error))
                        bars.console.print(f"  failed: {error}")
                        continue
                    done[job.command] = outcome
                    self._keep(job, outcome)
                    bars.advance(task)
                    last = f"{outcome.accuracy(BUDGETS[0]):.1%}, {outcome.cpu_seconds:.0f} s {outcome.error}"
                    bars.console.print(f"  {number:>3}/{len(waiting)}  {job.name}  {last}")
            except BaseException:
                self._stop()
                raise
            finally:
                pool.shutdown(cancel_futures=True)
        if failures:
            raise RunFailed(f"{title}: {len(failures)} runs failed, the first: {failures[0]}")
        return {job: self._labelled(job, done[job.command]) for job in jobs}

    def _refuse_other_inputs(self, jobs: Iterable[Job]) -> None:
        """Results of two start policies, or of two sets of problems, do not compare.

        Raises:
            UserError: A job is to be run, and the results of its task are those of other files.
        """
        done = {outcome.command for outcome in self.outcomes}
        for job in jobs:
            others = {each.inputs for each in self.outcomes if each.task == job.task} - {job.inputs}
            if job.command not in done and others:
                there = ", ".join(sorted(each or "none" for each in others))
                raise UserError(
                    f"{self.results}: the results of the task {job.task} are of another start policy or other problems "
                    f"than those made here, or it is not known of which (digest {job.inputs}, there {there}); give "
                    "another folder as --results, or remove the lines of the task"
                )

    def _labelled(self, job: Job, outcome: Outcome) -> Outcome:
        """The outcome of a job, which may have been run as another one with the same command."""
        labels = {name: getattr(job, name) for name in ("study", "task", "method", "split", "question", "level")}
        if all(getattr(outcome, name) == value for name, value in labels.items()):
            return outcome
        same = [each for each in self.outcomes if each.command == job.command]
        for each in same:
            if all(getattr(each, name) == value for name, value in labels.items()):
                return each
        copy = Outcome(**{**vars(outcome), **labels})
        self._keep(job, copy)
        return copy

    def _keep(self, job: Job, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        append_outcome(self.results / f"{job.study}.jsonl", outcome)

    def _execute(self, job: Job) -> Outcome:
        digest = blake2b("\n".join(job.command).encode(), digest_size=8).hexdigest()
        folder = self.folder / digest
        shutil.rmtree(folder, ignore_errors=True)  # an interrupted run starts from scratch, which costs seconds
        folder.mkdir(parents=True)
        code = self._wait([*job.arguments, f"--trainer.run_dir={folder / 'run'}"], folder)
        if not (folder / "ended.json").exists():
            log = folder / "log.txt"
            last = log.read_text(encoding="utf-8").splitlines()[-10:] if log.exists() else []
            raise RunFailed("\n".join([f"{job.name}: exit code {code}, {log}", *last]))
        ended = json.loads((folder / "ended.json").read_text())
        outcome = self._outcome(job, folder, ended["error"], ended["cpu_seconds"])
        shutil.rmtree(folder)
        return outcome

    def _outcome(self, job: Job, folder: Path, error: str, cpu_seconds: float) -> Outcome:
        file = folder / "run" / POINTS
        points = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"curve": [], "at": {}}
        curve = tuple(Point(**each) for each in points["curve"])
        trained = job.learning_rate is not None
        start = self.start_of(job) if trained else curve[0].accuracy
        at = {budget: Point(**each) for budget, each in points["at"].items()}
        if trained:  # a run that diverged before its first evaluation has what it started with
            last = curve[-1] if curve else Point(0, 0, 0, 0.0, start)
            at = {budget: at.get(budget, last) for budget in BUDGETS}
        labels = {name: getattr(job, name) for name in ("study", "task", "method", "learning_rate", "split", "seed")}
        return Outcome(
            **labels,
            start=start,
            question=job.question,
            level=job.level,
            curve=curve if trained else (),
            at=at if trained else {},
            error=error,
            command=job.command,
            cpu_seconds=cpu_seconds,
            commit=self._commit,
            processor=processor(),
            inputs=job.inputs,
        )

    def start_of(self, job: Job) -> float:
        """The accuracy before training with the seed and the problems of a job, which is run before."""
        for each in self.outcomes:
            same_problems = (each.split == "validation") == (job.split == "validation")
            if not each.trained and same_problems and (each.task, each.seed) == (job.task, job.seed):
                return each.start
        raise RunFailed(f"{job.name}: the policy before training was not evaluated with this seed")

    def _wait(self, arguments: Sequence[str], folder: Path) -> int | None:
        """Runs a process to its end; returns its exit code, the negative number of the signal that killed it."""
        with self._lock:
            if self._stopped:
                raise RunFailed("interrupted")
            process = self._context.Process(target=self.work, args=(list(arguments), str(folder)))
            process.start()
            self._alive.add(process)
        process.join()
        with self._lock:
            self._alive.discard(process)
        return process.exitcode

    def _stop(self) -> None:
        """Ends the runs in progress; they start from scratch next time."""
        with self._lock:
            self._stopped = True
            for process in self._alive:
                process.terminate()
        deadline = time.monotonic() + 10
        while self._alive and time.monotonic() < deadline:
            time.sleep(0.1)
        with self._lock:
            for process in self._alive:
                process.kill()


def progress_bars() -> Progress:
    """Progress bars, hidden without a terminal; text printed on their console is shown in any case."""
    console = Console(highlight=False, soft_wrap=True)
    return Progress(
        *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()),
        *(TimeElapsedColumn(), TimeRemainingColumn()),
        console=console,
        disable=not console.is_terminal,
        speed_estimate_period=3600,  # seconds; within rich's default of 30, no run ends and no estimate is possible
    )


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
