"""`python -m rence_lightning compare` and `report`: what finished runs show."""

import sys
from pathlib import Path

from rence_lightning.cli.arguments import CommandParser
from rence_lightning.errors import UserError


def compare_command(arguments: list[str]) -> None:
    """Parses the command's arguments and prints the table."""
    parser = CommandParser(
        "compare",
        "Compare evaluation B with evaluation A on the benchmarks that both have finished:\n"
        "the difference in avg@k with its 95% confidence interval, by paired bootstrap over problems.",
        [
            "compare runs/before-validate runs/after-validate",
            "compare runs/arithmetic/evaluations/iteration-0000 runs/arithmetic",
        ],
    )
    where = "a run directory (its last evaluation counts), or a folder in the evaluations/ of one"
    parser.add_argument("a", type=Path, metavar="A", help=where)
    parser.add_argument("b", type=Path, metavar="B", help="another one")
    chosen = parser.parse_args(arguments)
    for path in (chosen.a, chosen.b):
        if not path.is_dir():
            raise UserError(f"compare: {path} is not a folder; give a run directory, or a folder in its evaluations/")
    from rich.console import Console

    from rence_lightning.evaluation import comparison, find_samples

    table, differing = comparison(find_samples(chosen.a), find_samples(chosen.b))
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    console.print(table)
    for line in differing:
        console.print(f"the policy is not the only difference: {line}", markup=False, style="yellow")


def report_command(arguments: list[str]) -> None:
    """Parses the command's arguments and writes the page."""
    parser = CommandParser(
        "report",
        "Write a run directory, or several side by side, as one HTML page that opens without a server:\n"
        "whether the policy learned, whether the run is healthy, where the time went, and what was\n"
        "sampled. Several runs are compared with the first, with paired intervals.",
        ["report runs/arithmetic", "report runs/arithmetic runs/arithmetic-2 --output both.html"],
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a run directory of fit or validate")
    parser.add_argument("--output", type=Path, help="the file to write (default: report.html in the first directory)")
    chosen = parser.parse_args(arguments)
    for run in chosen.runs:
        if not run.is_dir():
            raise UserError(f"report: {run} is not a folder; give a run directory")
    from rence_lightning.report import write_report

    print(write_report(*chosen.runs, file=chosen.output))
