"""Runs of the recipes: one process after another, each once, resumable."""

import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import rence_lightning
from benchmarks.command import RunFailed
from benchmarks.machine import processor, version
from benchmarks.recipes.results import Result, append_result, read_results, results_of
from benchmarks.recipes.spec import Recipe
from benchmarks.study.runner import commit
from rence_lightning.evaluation.record import read_evaluations

PACKAGES = ("torch", "transformers", "lightning")


def run_missing(recipes: Iterable[Recipe], results: Path, folder: Path) -> None:
    """Runs every recipe with every seed that has no line in the file of results, and appends a line for each.

    A run that fails is reported, and the others are run.

    Args:
        recipes: Recipes to run, in this order.
        results: File of the results.
        folder: Folder of the runs in progress and of those that failed.

    Raises:
        RunFailed: A run failed.
    """
    code = commit()
    done = read_results(results)
    waiting = [
        (recipe, seed)
        for recipe in recipes
        for seed in recipe.seeds
        if seed not in {result.seed for result in results_of(recipe, done)}
    ]
    print(f"{len(waiting)} runs to do, commit {code}", flush=True)
    failures = []
    for number, (recipe, seed) in enumerate(waiting, start=1):
        start = f"{number:>3}/{len(waiting)}  {recipe.file}, seed {seed}"
        try:
            result = run(recipe, seed, folder / f"{recipe.name}-{Path(recipe.file).stem}-{seed}", code)
        except RunFailed as error:
            failures.append(str(error))
            print(f"{start}: failed: {error}", flush=True)
            continue
        append_result(results, result)
        print(f"{start}: {result.start:.1%} -> {result.end:.1%}, {result.cpu_seconds:.0f} CPU seconds", flush=True)
    if failures:
        raise RunFailed(f"{len(failures)} of {len(waiting)} runs failed, the first: {failures[0]}")


def run(recipe: Recipe, seed: int, folder: Path, code: str) -> Result:
    """Runs a recipe with a seed on one thread.

    Args:
        recipe: Recipe to run.
        seed: Seed of the run.
        folder: Folder of the run and of its output, `log.txt`; it is emptied before, and removed after a success.
        code: Commit of the code that runs.

    Raises:
        RunFailed: The process failed, or wrote no evaluations before and after training.
    """
    shutil.rmtree(folder, ignore_errors=True)  # an interrupted run starts from scratch
    folder.mkdir(parents=True)
    options = [f"--seed_everything={seed}", f"--trainer.run_dir={folder / 'run'}", "--trainer.cpu_threads=1"]
    command = [sys.executable, "-m", "rence_lightning", *recipe.arguments, *options]
    begin = time.perf_counter()
    with (folder / "log.txt").open("w", encoding="utf-8") as log:
        status, cpu_seconds = wait(command, log.fileno())
    wall_seconds = time.perf_counter() - begin
    evaluations = read_evaluations(folder / "run" / "evaluations.jsonl")
    if status or len(evaluations) < 2 or evaluations[0]["iteration"] != 0:
        last = "\n".join((folder / "log.txt").read_text(encoding="utf-8").splitlines()[-10:])
        what = f"exit code {status}" if status else "no evaluations before and after training"
        raise RunFailed(f"{shlex.join(recipe.arguments)}, seed {seed}: {what}, {folder / 'log.txt'}\n{last}")
    shutil.rmtree(folder)
    return Result(
        name=recipe.name,
        file=recipe.file,
        command=recipe.command,
        seed=seed,
        start=evaluations[0]["average"],
        end=evaluations[-1]["average"],
        iterations=evaluations[-1]["iteration"],
        cpu_seconds=round(cpu_seconds, 1),
        wall_seconds=round(wall_seconds, 1),
        threads=1,
        processor=processor(),
        versions=versions(),
        commit=code,
    )


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that compute."""
    packages = {name: found for name in PACKAGES if (found := version(name)) is not None}
    return {"python": platform.python_version(), **packages, "rence_lightning": rence_lightning.__version__}


def wait(command: list[str], output: int) -> tuple[int, float]:
    """Runs a command with one thread; returns its exit code and its CPU seconds, with those of its own processes.

    The process ends when this one is interrupted.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_utime + usage.ru_stime
