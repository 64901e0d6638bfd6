"""`python -m benchmarks.study`: runs what has not been run yet of the studies, and writes the tables of the page."""

import os
from pathlib import Path

from jsonargparse import auto_cli

from benchmarks.command import run_command
from benchmarks.study import page
from benchmarks.study.runner import Runner
from benchmarks.study.spec import load_spec
from benchmarks.study.study import Study
from rence_lightning.errors import UserError
from rence_lightning.run.lock import Lock

HERE = Path(__file__).parent


def study(
    results: Path = HERE / "results",
    out: Path = Path("runs/studies"),
    docs: Path = Path("docs/results.md"),
    spec: Path = HERE / "study.yaml",
    processes: int | None = None,
    report_only: bool = False,
) -> None:
    """Runs the paper's tables, the family, and "when does ReNCE win?" on policies of half a million parameters, and
    those configurations of conf/ that run on a CPU.

    Learning rates are chosen on validation problems, then each method is run with every seed. The command can be
    interrupted at any time; the same command continues, and runs nothing twice.

    Args:
        results: Folder of the results, one line for each run.
        out: Folder of the files of problems and of the runs in progress.
        docs: Page whose tables are written.
        spec: Specification of the studies, a YAML file.
        processes: Number of runs at a time, with one thread each (default: the number of cores of this process).
        report_only: Whether to start no run, and to write the tables from the finished ones, which may be a part.

    Raises:
        UserError: The specification is wrong, a line of the results is, or the page has no place for the tables.
        RunFailed: A run neither finished, starved nor diverged.
    """
    if processes is not None and processes < 1:
        raise UserError(f"--processes: {processes}; it must be >= 1")
    runner = Runner(out / "runs", processes or len(os.sched_getaffinity(0)))
    all_runs = Study(load_spec(spec), runner, results, out / "tasks")
    if not report_only:
        out.mkdir(parents=True, exist_ok=True)
        lock = Lock(out)
        all_runs.run()
        lock.release()
    page.write(all_runs.spec, all_runs.outcomes, all_runs.recipe_runs, docs)
    print(f"written to {docs}")


if __name__ == "__main__":
    run_command(lambda: auto_cli(study, as_positional=False, prog="python -m benchmarks.study"))
