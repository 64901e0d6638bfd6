"""`python -m benchmarks.study`: runs what has not been run yet of the studies, and writes tables and figures."""

import os
from collections.abc import Collection, Iterable
from functools import partial
from pathlib import Path
from statistics import fmean

from jsonargparse import ArgumentParser

from benchmarks.command import run_command
from benchmarks.study import readme, tables_page, when_page
from benchmarks.study.choice import best, choose_learning_rates
from benchmarks.study.jobs import make_job
from benchmarks.study.outcome import BUDGETS
from benchmarks.study.runner import Runner
from benchmarks.study.spec import Spec, load_spec
from benchmarks.study.tasks import POOLS, prepare, prepare_pools
from rence_lightning.errors import UserError
from rence_lightning.run.lock import Lock

HERE = Path(__file__).parent


class Study:
    """The runs of the studies, in their order."""

    def __init__(self, spec: Spec, runner: Runner, problems: Path) -> None:
        self.spec = spec
        self.runner = runner
        self._job = partial(make_job, spec, problems)
        self.rates: dict[str, dict[str, float]] = {}

    def starts(self, tasks: Iterable[str]) -> None:
        """Evaluates each policy before training, with every seed and set of problems that runs are evaluated with."""
        spec = self.spec
        splits = {"validation": spec.selection_seeds, "test": spec.seeds, "repeat": spec.repeat_seeds}
        jobs = [
            self._job("tables", task, "No training", None, split, seed)
            for task in tasks
            for split, seeds in splits.items()
            if split == "test" or not spec.tasks[task].rates_of
            for seed in seeds
        ]
        self.runner.run(jobs, "before training")

    def choose(self, task: str) -> dict[str, float]:
        """The learning rate of each method on a task."""
        if (source := self.spec.tasks[task].rates_of) or task in self.rates:
            return self.choose(source) if source else self.rates[task]

        def measure(pairs: list[tuple[str, float]]) -> dict[tuple[str, float], float]:
            jobs = {
                pair: [self._job("tables", task, *pair, "validation", seed) for seed in self.spec.selection_seeds]
                for pair in pairs
            }
            outcomes = self.runner.run([job for group in jobs.values() for job in group], f"{task}, learning rates")
            return {
                pair: fmean(outcomes[job].accuracy(budget) for job in group for budget in BUDGETS)
                for pair, group in jobs.items()
            }

        trained = [name for name in self.spec.methods_of(task) if self.spec.methods[name].config]
        scores = choose_learning_rates(trained, self.spec.learning_rates, self.spec.extend, measure)
        self.rates[task] = {method: best(each) for method, each in scores.items()}
        return self.rates[task]

    def tables(self, task: str) -> None:
        """Runs the rows of the tables on a task, with the chosen learning rates."""
        rates = self.choose(task)
        trained = [name for name in self.spec.methods_of(task) if self.spec.methods[name].config]
        jobs = [
            self._job("tables", task, method, rates[method], "test", seed)
            for seed in self.spec.seeds
            for method in trained
        ]
        self.runner.run(jobs, f"{task}, tables")

    def repeat(self, task: str) -> None:
        """Runs some rows once more, on seeds that were not used before."""
        rates = self.choose(task)
        jobs = [
            self._job("tables", task, method, rates[method], "repeat", seed)
            for method in self.spec.repeated
            for seed in self.spec.repeat_seeds
        ]
        self.runner.run(jobs, f"{task}, repeated")

    def questions(self, tasks: Collection[str]) -> None:
        """Runs every method at every level of every question that is asked on one of these tasks."""
        jobs = [
            self._job(
                *("when", level.task, method, self.choose(level.task)[method], "test", seed),
                *(each.question.name, (name, level)),
            )
            for seed in self.spec.seeds
            for each in self.spec.questions
            for name, level in each.levels.items()
            if level.task in tasks
            for method in each.methods
        ]
        self.runner.run(jobs, f"{next(iter(tasks))}, when does ReNCE win")


def study(
    results: Path = HERE / "results",
    out: Path = Path("runs/studies"),
    docs: Path = Path("docs"),
    spec: Path = HERE / "study.yaml",
    processes: int | None = None,
    report_only: bool = False,
) -> None:
    """Runs the paper's tables, the family, and "when does ReNCE win?" on policies of half a million parameters.

    Learning rates are chosen on validation problems, then each method is run with every seed. The command can be
    interrupted at any time; the same command continues, and runs nothing twice.

    Args:
        results: Folder of the results, one line for each run.
        out: Folder of the files of problems and of the runs in progress.
        docs: Folder of the pages and figures that are written; README.md is beside it.
        spec: Specification of the studies, a YAML file.
        processes: Number of runs at a time, with one thread each (default: the number of cores of this process).
        report_only: Start no run, and write pages and figures from the finished ones, which may be a part.

    Raises:
        UserError: The specification is wrong, or a line of the results is.
        RunFailed: A run neither finished, starved nor diverged.
    """
    experiment = load_spec(spec)
    if processes is not None and processes < 1:
        raise UserError(f"--processes: {processes}; it must be >= 1")
    runner = Runner(experiment, results, out / "runs", processes or len(os.sched_getaffinity(0)))
    if not report_only:
        out.mkdir(parents=True, exist_ok=True)
        lock = Lock(out)
        run(experiment, runner, out / "tasks")
        lock.release()
    for page in (tables_page, when_page):
        page.write(runner.outcomes, experiment, docs)
    readme.write(runner.outcomes, experiment, docs.parent / "README.md")
    print(f"written to {docs / 'small_tables.md'}, {docs / 'when.md'} and the table in README.md")


def run(experiment: Spec, runner: Runner, problems: Path) -> None:
    """Makes all runs that are missing: task by task, each with the tasks and questions that take its learning rates."""
    prepare(problems)
    runs = Study(experiment, runner, problems)
    for task, each in experiment.tasks.items():
        if each.rates_of:
            continue
        related = [task, *(name for name, other in experiment.tasks.items() if other.rates_of == task)]
        if POOLS.keys() & {experiment.tasks[name].problems for name in related}:
            prepare_pools(problems)
        runs.starts(related)
        for name in related:
            runs.tables(name)
        runs.questions(related)
        runs.repeat(task)


def command_line() -> ArgumentParser:
    """The options of `study`."""
    parser = ArgumentParser(prog="python -m benchmarks.study", description=(study.__doc__ or "").partition("Args:")[0])
    parser.add_function_arguments(study)
    return parser


if __name__ == "__main__":
    run_command(lambda: study(**command_line().parse_args().as_dict()))
