"""Execution of the runs as processes: several at a time, each run once, resumable."""

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

from benchmarks.command import RunFailed
from benchmarks.study.runner import commit, progress_bars
from rence_lightning.errors import UserError

STARVED_OR_DIVERGED = 1
"""Exit code of a run that starved or whose loss or gradient was not finite; both count as results."""


@dataclass(frozen=True)
class Method:
    """What is run: a configuration.

    Attributes:
        name: Name in tables.
        key: Name of its folder.
        arguments: Command-line arguments, without learning rate, seed and run directory.
        trained: Whether it is trained; otherwise it is only evaluated.
    """

    name: str
    key: str
    arguments: tuple[str, ...]
    trained: bool


@dataclass(frozen=True)
class Job:
    """One run of a method.

    Attributes:
        method: Method to run.
        learning_rate: Learning rate of the optimizer; None for a method that is not trained.
        split: Split of the arithmetic problems to evaluate on.
        seed: Seed of the order of the prompts and of sampling.
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
        # The choice of a learning rate needs only the last evaluation.
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
    """The result of a run.

    Attributes:
        command: Command that started the run.
        accuracy: Sampled pass@1 of the last evaluation.
        curve: Pairs (responses sampled in training, accuracy), one for each evaluation.
        responses: Number of responses sampled in training.
        updates: Number of optimizer steps.
        cpu_seconds: User and system time of the process and its children, including start-up and evaluations.
        error: Error message of a starved or diverged run; empty otherwise.
        exit_code: Exit code: 0, or 1 if the run starved or diverged.
        std: Standard deviation of the last evaluation over its repeats.
        commit: Commit of the code that ran; empty if it was not recorded.
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


class Runner:
    """Executes jobs, `processes` at a time, in `folder`; with `read_only` it only reads the existing results."""

    def __init__(self, folder: Path, processes: int, read_only: bool = False) -> None:
        self.folder = folder
        self.processes = processes
        self.read_only = read_only
        self._commit = commit()
        self._alive: set[int] = set()
        self._lock = Lock()
        self._stopped = False

    def run(self, jobs: Iterable[Job], title: str) -> dict[Job, Result]:
        """Returns the results of all jobs; runs that the same command finished earlier are read, not repeated.

        Raises:
            RunFailed: A run neither finished, starved nor diverged.
            UserError: A run is missing, and `read_only` forbids starting one.
        """
        jobs = list(dict.fromkeys(jobs))
        results = {job: result for job in jobs if (result := self.finished(job)) is not None}
        if self.read_only and (missing := [job.name for job in jobs if job not in results]):
            raise UserError(
                f"{title}: {len(missing)} of {len(jobs)} runs are not finished in {self.folder} (the first: "
                f"{missing[0]}); omit --report-only to run them"
            )
        bars = progress_bars()
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
            bars.console.print(f"{title}: {len(jobs)} runs, {len(results)} of them already finished")
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
        except (TypeError, ValueError):  # written by another version, or damaged
            return None
        return result if result.command == job.command(folder) else None

    def _execute(self, job: Job) -> Result:
        folder = self.folder / job.name
        shutil.rmtree(folder, ignore_errors=True)  # an interrupted run starts from scratch, which costs a minute
        folder.mkdir(parents=True)
        command = job.command(folder)
        with (folder / "log.txt").open("w") as log:
            code, cpu_seconds = self._wait(command, log)
        lines = (folder / "log.txt").read_text().splitlines()
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        # Any error ends a run with 1; those that are not foreseen are printed with their traceback.
        foreseen = errors and not any(line.startswith("Traceback ") for line in lines)
        if code not in (0, STARVED_OR_DIVERGED) or (code == STARVED_OR_DIVERGED and not foreseen):
            raise RunFailed(f"{job.name}: exit code {code}\n" + "\n".join(lines[-10:]))
        try:
            figures = read_run(folder, job.method.trained)
        except (OSError, LookupError) as error:
            raise RunFailed(f"{job.name}: the run wrote no evaluation\n" + "\n".join(lines[-10:])) from error
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
        """Runs a command; returns its exit code and CPU seconds. One thread per run suffices for such small tensors."""
        with self._lock:
            if self._stopped:
                raise RunFailed("interrupted")
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
            self._alive.add(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        with self._lock:
            self._alive.discard(process.pid)
        process.returncode = os.waitstatus_to_exitcode(status)
        return process.returncode, usage.ru_utime + usage.ru_stime

    def _stop(self) -> None:
        """Ends the runs in progress; they count as unfinished, and start from scratch next time."""
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
            with contextlib.suppress(ProcessLookupError):  # the process has just ended
                os.kill(pid, number)


def read_run(folder: Path, trained: bool) -> dict[str, Any]:
    """Accuracy, learning curve, responses and updates of a run, read from its files."""
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
