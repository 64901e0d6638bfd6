"""Runs as processes: a few at a time, each once, resumable."""

import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from threading import Lock
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.small_tables.spec import Method
from rence_lightning.errors import UserError

STARVED_OR_DIVERGED = 1
"""Exit code of a run that found nothing to train on or lost its gradient: a result like any other."""


@dataclass(frozen=True)
class Job:
    """One run of a method.

    Attributes:
        method: What is run.
        learning_rate: None for a method that is not trained.
        split: Of the arithmetic problems that it is evaluated on.
        seed: Of prompts and sampling.
    """

    method: Method
    learning_rate: float | None
    split: str
    seed: int

    @property
    def name(self) -> str:
        rate = "" if self.learning_rate is None else f"lr-{self.learning_rate:g}-"
        return f"{self.method.key}/{rate}{self.split}-seed-{self.seed}"

    def command(self, folder: Path) -> list[str]:
        problems = {"class_path": "rence_lightning.prompts.ArithmeticProblems", "init_args": {"split": self.split}}
        rate = [] if self.learning_rate is None else [f"--model.optimizer.init_args.lr={self.learning_rate:g}"]
        # The choice of a learning rate needs the last evaluation alone.
        rare = ["--evaluation.every=1000000"] if self.split == "validation" else []
        return [
            *(sys.executable, "-m", "rence_lightning", "fit" if self.method.trained else "validate"),
            *(*self.method.arguments, *rate, *rare),
            f"--evaluation.benchmarks={json.dumps({'arithmetic': problems})}",
            *(f"--seed_everything={self.seed}", f"--trainer.run_dir={folder / 'run'}"),
            *("--checkpoint.every=0", "--rollout_log.every=0", "--export.enabled=false", "--progress.bars=false"),
            "--report.enabled=false",
        ]


@dataclass(frozen=True)
class Result:
    """What came of a run.

    Attributes:
        command: That made it.
        accuracy: Sampled pass@1 of the last evaluation.
        curve: (responses sampled in training, accuracy) of each evaluation.
        responses: Sampled in training.
        updates: Optimizer steps.
        cpu_seconds: User and system time of the process and its children, start-up and evaluations included.
        error: The line that a starved or diverged run ended with; empty otherwise.
        exit_code: 0, or 1 if it starved or diverged.
        std: Of the last evaluation, over its repeats.
        commit: Of the code that ran; empty where it was not recorded.
    """

    command: list[str]
    accuracy: float
    curve: list[tuple[float, float]]
    responses: int
    updates: int
    cpu_seconds: float
    error: str = ""
    exit_code: int = 0
    std: float = 0.0
    commit: str = ""


class RunFailed(Exception):
    """A run ended in a way that is no result."""


class Runner:
    """Executes jobs, `processes` at a time, below `folder`; with `read_only` it only reads back what is there."""

    def __init__(self, folder: Path, processes: int, read_only: bool = False) -> None:
        self.folder = folder
        self.processes = processes
        self.read_only = read_only
        self._commit = commit()
        self._alive: set[int] = set()
        self._lock = Lock()
        self._stopped = False

    def run(self, jobs: Iterable[Job], title: str) -> dict[Job, Result]:
        """The results of all jobs; those finished before by the same command are read back.

        Raises:
            RunFailed: A run ended otherwise than finished, starved or diverged.
            UserError: A run is missing, and none may be started.
        """
        jobs = list(dict.fromkeys(jobs))
        results = {job: result for job in jobs if (result := self.finished(job)) is not None}
        if self.read_only and (missing := [job.name for job in jobs if job not in results]):
            raise UserError(
                f"{title}: {len(missing)} of {len(jobs)} runs are not finished in {self.folder} (the first: "
                f"{missing[0]}); without --report-only they are run"
            )
        bars = _progress_bars()
        under_way: dict[Job, None] = {}

        def execute(job: Job) -> Result:
            under_way[job] = None
            bars.update(task, description=f"{title}: {', '.join(each.name for each in list(under_way))}")
            try:
                return self._execute(job)
            finally:
                del under_way[job]

        with bars:
            task = bars.add_task(title, total=len(jobs), completed=len(results))
            bars.console.print(f"{title}: {len(jobs)} runs, {len(results)} of them are there")
            pool = ThreadPoolExecutor(self.processes)
            try:
                futures = {pool.submit(execute, job): job for job in jobs if job not in results}
                for future in as_completed(futures):
                    job = futures[future]
                    results[job] = future.result()
                    bars.advance(task)
                    bars.console.print(f"  {len(results):>3}/{len(jobs)}  {job.name}  {results[job].accuracy:.1%}")
            except BaseException:
                self._stop()
                raise
            finally:
                pool.shutdown(cancel_futures=True)
        return results

    def finished(self, job: Job) -> Result | None:
        folder = self.folder / job.name
        file = folder / "finished.json"
        if not file.exists():
            return None
        try:
            result = Result(**json.loads(file.read_text()))
        except (TypeError, ValueError):  # another version's, or damaged
            return None
        return result if result.command == job.command(folder) else None

    def _execute(self, job: Job) -> Result:
        folder = self.folder / job.name
        shutil.rmtree(folder, ignore_errors=True)  # an interrupted run starts anew: it takes a minute
        folder.mkdir(parents=True)
        command = job.command(folder)
        with (folder / "log.txt").open("w") as log:
            code, cpu_seconds = self._wait(command, log)
        lines = (folder / "log.txt").read_text().splitlines()
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        # Python ends with 1 after any exception that nobody caught, too: only the command line's own line is a result.
        if code not in (0, STARVED_OR_DIVERGED) or (code == STARVED_OR_DIVERGED and not errors):
            raise RunFailed(f"{job.name}: exit code {code}\n" + "\n".join(lines[-10:]))
        try:
            figures = read_run(folder, job.method.trained)
        except (OSError, LookupError) as error:
            raise RunFailed(f"{job.name}: it left no evaluation behind\n" + "\n".join(lines[-10:])) from error
        result = Result(
            command,
            cpu_seconds=round(cpu_seconds, 1),
            error=errors[-1] if code else "",
            exit_code=code,
            commit=self._commit,
            **figures,
        )
        draft = folder / "finished.tmp"
        draft.write_text(json.dumps(asdict(result), indent=1) + "\n")
        draft.replace(folder / "finished.json")
        return result

    def _wait(self, command: list[str], log: Any) -> tuple[int, float]:
        """Exit code and CPU seconds. One thread a run: more gain nothing on tensors this small."""
        with self._lock:
            if self._stopped:
                raise RunFailed("stopped")
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
            self._alive.add(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        with self._lock:
            self._alive.discard(process.pid)
        process.returncode = os.waitstatus_to_exitcode(status)
        return process.returncode, usage.ru_utime + usage.ru_stime

    def _stop(self) -> None:
        """Ends the runs under way; they are not finished, and start anew next time."""
        with self._lock:
            self._stopped = True
            self._signal(signal.SIGTERM)
        deadline = time.monotonic() + 10
        while self._alive and time.monotonic() < deadline:
            time.sleep(0.1)
        with self._lock:
            self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._alive:
            with contextlib.suppress(ProcessLookupError):  # it has ended just now
                os.kill(pid, number)


def _progress_bars() -> Progress:
    """Without a terminal it shows nothing; what is printed on its console appears all the same."""
    console = Console(highlight=False, soft_wrap=True)
    return Progress(
        *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()),
        *(TimeElapsedColumn(), TimeRemainingColumn()),
        console=console,
        disable=not console.is_terminal,
        speed_estimate_period=3600,  # seconds; in rich's own 30 no run ends, and there would be no estimate
    )


def read_run(folder: Path, trained: bool) -> dict[str, Any]:
    """Accuracy, learning curve, responses and updates from the files that a run leaves behind."""
    run = folder / ("run" if trained else "run-validate")
    evaluations = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    sampled, updates = {0: 0.0}, 0
    with (run / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            updates += bool(row.get("train/loss"))
            if total := row.get("rollouts/responses_total"):
                sampled[int(float(row["iteration"]))] = float(total)
    curve = [(sampled[evaluation["iteration"]], evaluation["average"]) for evaluation in evaluations]
    last = evaluations[-1]
    return {
        "accuracy": last["average"],
        "std": fmean(benchmark["std"] for benchmark in last["benchmarks"].values()),  # there is one benchmark
        "curve": [list(point) for point in curve],
        "responses": int(max(sampled.values())),
        "updates": updates,
    }


def commit() -> str:
    """The commit of the working directory, and whether there is more than it."""
    try:
        head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + (" and uncommitted changes" if changes.stdout.strip() else "")
