"""`python -m benchmarks.small_tables`: runs what is not yet there, and writes tables and figure."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from jsonargparse import auto_cli

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
) -> None:
    """Runs every row of the paper's Tables 1 to 4 on the embedded arithmetic policy.

    Learning rates are chosen on a validation split, then each method is run with every seed. Rows that are the same
    method share their runs. Stop it when you like: the same command goes on, and runs nothing twice.

    Args:
        out: Takes tables.md, curves.png and, in runs/, all runs with their logs.
        spec: The experiment.
        tables: Only these of its tables, counted from 1 (default: all).
        processes: Runs at a time, one thread each (default: the cores of this process).
    """
    experiment = load_spec(spec)
    numbers = tables or list(range(1, len(experiment.tables) + 1))
    if not set(numbers) <= set(range(1, len(experiment.tables) + 1)):
        raise UserError(f"--tables: {numbers}, but {spec} has the tables 1 to {len(experiment.tables)}")
    chosen = [experiment.tables[number - 1] for number in numbers]
    processes = processes or len(os.sched_getaffinity(0))
    runner = Runner(out / "runs", processes)
    with ThreadPoolExecutor(processes) as workers:
        methods = find_methods(experiment, chosen, workers)
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
        print("no figure: matplotlib is not installed (pip install matplotlib)", file=sys.stderr)
    command = "python -m benchmarks.small_tables" + "".join(f" {argument}" for argument in sys.argv[1:])
    (out / "tables.md").write_text(report(outcome, command, processes, figure), encoding="utf-8")
    print(f"written to {out / 'tables.md'}")


def main() -> None:
    try:
        auto_cli(small_tables, as_positional=False, prog="python -m benchmarks.small_tables")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except RunFailed as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
