"""The runs of the studies in their order, each once."""

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.command import RunFailed
from benchmarks.machine import processor, version
from benchmarks.study.budgets import POINTS, TRAINING
from benchmarks.study.jobs import Job, make_job
from benchmarks.study.results import Outcome, Point, append_line, read_lines, read_outcomes
from benchmarks.study.runner import Ended, Runner, commit
from benchmarks.study.runs import Cell, Runs, rates_to_try
from benchmarks.study.spec import BUDGETS, Recipe, Spec
from benchmarks.study.tasks import prepare
from rence_lightning.errors import UserError

RecipeRun = Mapping[str, Any]
"""A line of the results of recipes: accuracies from 0 to 1 before and after training, seconds, where it was made."""

RECIPES = "recipes.jsonl"


class Study:
    """The studies and the recipes.

    Args:
        spec: Specification of what is run.
        runner: Runner of the processes.
        results: Folder of the results.
        problems: Folder of the files of problems.
    """

    def __init__(self, spec: Spec, runner: Runner, results: Path, problems: Path) -> None:
        self.spec, self.runner, self.results, self.problems = spec, runner, results, problems
        self.outcomes = read_outcomes(results)
        self.recipe_runs = read_lines(results / RECIPES, dict)
        self._commit = commit()

    def run(self) -> None:
        """Makes all runs that are missing: task by task, each with those that take its learning rates."""
        prepare(self.problems, self.spec)
        for task in self.spec.main_tasks:
            related = [task, *(name for name, other in self.spec.tasks.items() if other.rates_of == task)]
            self.start(related)
            self.choose(task)
            cells = [cell for cell in Runs(self.spec, []).cells() if cell.task in related]
            self.execute(self.jobs(cells, "test", self.spec.seeds), f"{task}, tables and questions")
            repeated = [Cell(task, method) for method in self.spec.repeated if self.spec.tasks[task].repeat]
            self.execute(self.jobs(repeated, "repeat", self.spec.repeat_seeds), f"{task}, repeated")
        self.recipes()

    def start(self, tasks: Iterable[str]) -> None:
        """Evaluates each policy before training, with every seed and set of problems that runs are evaluated with."""
        spec = self.spec
        splits = {"validation": spec.selection_seeds, "test": spec.seeds, "repeat": spec.repeat_seeds}
        jobs = [
            make_job(spec, self.problems, Cell(task, spec.untrained), None, split, seed)
            for task in tasks
            for split, seeds in splits.items()
            if split == "test" or (task in spec.main_tasks and (split == "validation" or spec.tasks[task].repeat))
            for seed in seeds
        ]
        self.execute(jobs, "before training")

    def choose(self, task: str) -> None:
        """Runs every method on the validation problems, with learning rates until the best one is not at an end."""
        spec = self.spec
        while True:
            runs = Runs(spec, self.outcomes)
            jobs = [
                make_job(spec, self.problems, Cell(task, method), rate, "validation", seed)
                for method in spec.trained
                for rate in rates_to_try(runs.scores(task, method), spec.first_rates(task), spec.extensions(task))
                for seed in spec.selection_seeds
            ]
            if not jobs:
                return
            self.execute(jobs, f"{task}, learning rates")

    def jobs(self, cells: Iterable[Cell], split: str, seeds: Sequence[int]) -> list[Job]:
        """The runs of cells with the chosen learning rates."""
        runs = Runs(self.spec, self.outcomes)
        return [
            make_job(self.spec, self.problems, cell, runs.rate(cell.task, cell.method), split, seed)
            for seed in seeds
            for cell in cells
        ]

    def execute(self, jobs: Sequence[Job], title: str) -> None:
        """Runs the jobs whose command was not run before, and keeps a line for each.

        Raises:
            UserError: There are results of other problems or of another policy.
            RunFailed: A run neither finished, starved nor diverged.
        """
        done = {each.command for each in self.outcomes}
        digests = {(each.task, each.split): each.digest for each in self.outcomes if each.digest}
        named: dict[str, Job] = {}
        for job in jobs:
            if job.command in done:
                continue
            if job.digest != digests.get((job.task, job.split), job.digest):
                raise UserError(
                    f"{self.results}: it has results of {job.task} with other problems or another policy than those in "
                    f"{self.problems}; give another folder as --results, or the ones that they were made with"
                )
            done.add(job.command)
            named[job.name] = job
        print(f"{title}: {len(jobs)} runs, {len(named)} of them to do", flush=True)

        def keep(name: str, ended: Ended) -> str:
            outcome = self._outcome(named[name], ended)
            self._keep(outcome)
            return f"{outcome.accuracy(BUDGETS[0]):.1%}, {outcome.cpu_seconds:.0f} s {outcome.error}"

        self.runner.run({name: job.arguments for name, job in named.items()}, keep)
        results = {each.command: each for each in self.outcomes}
        kept = {(*each.labels.values(), each.command) for each in self.outcomes}
        for job in jobs:  # a run that is the same in several places has a line for each
            if (*job.labels.values(), job.command) not in kept:
                self._keep(replace(results[job.command], **job.labels))

    def _keep(self, outcome: Outcome) -> None:
        append_line(self.results / f"{outcome.study}.jsonl", asdict(outcome))
        self.outcomes.append(outcome)

    def _outcome(self, job: Job, ended: Ended) -> Outcome:
        curve = [Point(**each) for each in _read(ended.run_dir / POINTS)]
        trained = job.learning_rate is not None
        start = self._start_of(job) if trained else curve[0].accuracy
        # Of a run that ended early; at once, if it has no curve.
        last = curve[-1] if curve else Point(0, 0, 0, 0.0, start)
        at = {
            budget: next((each for each in curve if getattr(each, budget) >= size), last)
            for budget, size in self.spec.budgets_of(job.task, job.split).items()
        }
        return Outcome(
            **job.labels,
            start=start,
            curve=curve if trained else [],
            training=_read(ended.run_dir / TRAINING),
            at=at if trained else {},
            error=ended.error,
            command=job.command,
            cpu_seconds=ended.cpu_seconds,
            commit=self._commit,
            processor=processor(),
            digest=job.digest,
        )

    def _start_of(self, job: Job) -> float:
        """The accuracy before training with the seed and the problems of a job, which `start` has measured."""
        return next(
            each.start
            for each in self.outcomes
            if not each.at
            and (each.split == "validation") == (job.split == "validation")
            and (each.task, each.seed) == (job.task, job.seed)
        )

    def recipes(self) -> None:
        """Runs the configurations of `conf/` as users run them, with every seed that has no result yet."""
        named = {
            f"{file}, seed {seed}": (file, recipe, seed)
            for file, recipe in self.spec.recipes.items()
            for seed in set(recipe.seeds) - {each["seed"] for each in runs_of(file, recipe, self.recipe_runs)}
        }
        print(f"recipes: {len(named)} runs to do", flush=True)

        def keep(name: str, ended: Ended) -> str:
            file, recipe, seed = named[name]
            if ended.error:
                raise RunFailed(f"{name}: {ended.error}")
            lines = (ended.run_dir / "evaluations.jsonl").read_text(encoding="utf-8").splitlines()
            first, last = json.loads(lines[0]), json.loads(lines[-1])
            packages = {name: version(name) for name in ("torch", "transformers", "lightning", "rence_lightning")}
            run = {
                "name": recipe.title,
                "file": file,
                "command": command_of(file, recipe),
                "seed": seed,
                "start": first["average"],
                "end": last["average"],
                "iterations": last["iteration"],
                "cpu_seconds": ended.cpu_seconds,
                "wall_seconds": ended.wall_seconds,
                "threads": 1,
                "processor": processor(),
                "versions": {"python": platform.python_version(), **packages},
                "commit": self._commit,
            }
            append_line(self.results / RECIPES, run)
            self.recipe_runs.append(run)
            return f"{run['start']:.1%} -> {run['end']:.1%}, {ended.cpu_seconds:.0f} s"

        arguments = {
            name: [*command_of(file, recipe).split()[4:], f"--seed_everything={seed}", "--trainer.cpu_threads=1"]
            for name, (file, recipe, seed) in named.items()
        }
        self.runner.run(arguments, keep)


def _read(file: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    return found


def command_of(file: str, recipe: Recipe) -> str:
    """The command of a recipe as users type it."""
    return " ".join(["python -m rence_lightning fit", *(f"--config {each}" for each in (*recipe.base, file))])


def runs_of(file: str, recipe: Recipe, runs: Iterable[RecipeRun]) -> list[RecipeRun]:
    """The runs of a recipe by seed: those with its command of today, the last one of each seed."""
    found = {each["seed"]: each for each in runs if each["command"] == command_of(file, recipe)}
    return [found[seed] for seed in recipe.seeds if seed in found]
