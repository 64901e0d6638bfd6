"""`python -m benchmarks.small_tables`: runs all that has not been run yet, and writes the tables and the figure."""

import os
import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from jsonargparse import ArgumentParser

from benchmarks.small_tables.choice import best, choose_learning_rates
from benchmarks.small_tables.figure import draw
from benchmarks.small_tables.report import Outcome, report
from benchmarks.small_tables.runs import Job, RunFailed, Runner
from benchmarks.small_tables.spec import Method, find_methods, load_spec
from rence_lightning.errors import UserError

SPEC = Path(__file__).parent / "tables.yaml"


def small_tables(
    out: Path = Path("runs/small_tables"),
    spec: Path = SPEC,
    tables: list[int] | None = None,
    processes: int | None = None,
    report_only: bool = False,
) -> None:
    """Runs every row of the paper's Tables 1 to 4 on the embedded arithmetic policy.

    Learning rates are chosen on a validation split, then each method is run with every seed. Rows that are the same
    method share their runs. The command can be interrupted at any time; the same command continues, and runs nothing
    twice.

    Args:
        out: Directory for tables.md, curves.png, curves.svg and, in runs/, all runs with their logs.
        spec: Specification of the experiment, a YAML file.
        tables: Numbers of the tables to run, counted from 1, for instance 1 2 (default: all).
        processes: Number of runs at a time, with one thread each (default: the number of cores of this process).
        report_only: Start no run, and write tables and figure from the finished ones.

    Raises:
        UserError: The specification is wrong, or, with `report_only`, a run is missing.
        RunFailed: A run neither finished, starved nor diverged.
    """
    experiment = load_spec(spec)
    numbers = tables or list(range(1, len(experiment.tables) + 1))
    if not set(numbers) <= set(range(1, len(experiment.tables) + 1)):
        raise UserError(f"--tables: {numbers}, but {spec} has only the tables 1 to {len(experiment.tables)}")
    chosen = [experiment.tables[number - 1] for number in numbers]
    if processes is not None and processes < 1:
        raise UserError(f"--processes: {processes}; it must be >= 1")
    processes = processes or len(os.sched_getaffinity(0))
    runner = Runner(out / "runs", processes, read_only=report_only)
    with ThreadPoolExecutor(processes) as workers:
        # For all tables, because the folder of a method must not depend on the tables that are chosen.
        everywhere = find_methods(experiment, experiment.tables, workers)
    methods = {row: everywhere[row] for table in chosen for row in table.rows}
    scores = choose_learning_rates(
        (method for method in dict.fromkeys(methods.values()) if method.trained),
        experiment.learning_rates,
        experiment.selection_seeds,
        experiment.extend,
        lambda jobs: runner.run(jobs, "learning rates"),
    )

    def jobs_of(method: Method) -> list[Job]:
        rate = best(scores[method]) if method.trained else None
        return [Job(method, rate, "test", seed) for seed in experiment.seeds]

    jobs = {method: jobs_of(method) for method in dict.fromkeys(methods.values())}
    results = runner.run([job for group in jobs.values() for job in group], "tables")
    outcome = Outcome(
        experiment, chosen, methods, scores, {method: [results[job] for job in group] for method, group in jobs.items()}
    )
    figure: str | None = "curves.png"
    try:
        draw(outcome, out / "curves.png")
    except ImportError:
        figure = None
        print("no figure, because matplotlib is not installed (pip install matplotlib)", file=sys.stderr)
    command = shlex.join(["python", "-m", "benchmarks.small_tables", *sys.argv[1:]])
    (out / "tables.md").write_text(report(outcome, command, processes, figure), encoding="utf-8")
    print(f"written to {out / 'tables.md'}")


def command_line() -> ArgumentParser:
    """The options of `small_tables`, with lists and flags in the usual form, `--tables 1 2` and `--report-only`."""
    about, _, options = (small_tables.__doc__ or "").partition("Args:")
    help_of = dict(line.strip().split(": ", 1) for line in options.partition("Raises:")[0].splitlines() if ": " in line)
    parser = ArgumentParser(prog="python -m benchmarks.small_tables", description=about)
    parser.add_function_arguments(small_tables, skip={"tables", "report_only"})
    parser.add_argument("--tables", type=int, nargs="+", help=help_of["tables"])
    parser.add_argument("--report-only", action="store_true", help=help_of["report_only"])
    return parser


def main() -> None:
    try:
        small_tables(**command_line().parse_args().as_dict())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except RunFailed as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
