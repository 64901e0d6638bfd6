"""`python -m rence_lightning compare` and `report`: what finished runs show."""

import sys
from pathlib import Path

from rence_lightning.cli.arguments import CommandParser
from rence_lightning.errors import UserError


def compare_command(arguments: list[str]) -> None:
    """Parses the command's arguments and prints the tables."""
    parser = CommandParser(
        "compare",
        "Compare evaluations: the settings that differ, accuracies with 95% intervals, and differences to\n"
        "the first on the benchmarks that both have finished, by paired bootstrap over problems. Runs that\n"
        "differ in seed_everything alone are one setting, with intervals by Student's t over seeds.",
        [
            "compare runs/before-validate runs/after-validate",
            "compare runs/arithmetic/evaluations/iteration-0000 runs/arithmetic",
            "compare runs/sweep-*",
        ],
    )
    where = "a run directory (its last evaluation counts, or that of RUN-validate), or a folder in its evaluations/"
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help=where)
    runs = list(dict.fromkeys(parser.parse_args(arguments).runs))
    for path in runs:
        if not path.is_dir():
            raise UserError(f"compare: {path} is not a folder; give a run directory, or a folder in its evaluations/")
    if len(runs) == 1:
        raise UserError(f"compare: {runs[0]} is one evaluation; give two or more")
    _print_comparison(runs)


def _print_comparison(runs: list[Path]) -> None:
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    from rence_lightning.evaluation import comparison, find_samples
    from rence_lightning.evaluation.comparison import comparison_table
    from rence_lightning.report.overview import overview, upright
    from rence_lightning.run.directory import last_config

    evaluated = {
        str(path): (
            last_config(path if (path / "config.yaml").exists() else path.resolve().parents[1]),
            find_samples(path),
        )
        for path in runs
    }
    settings, table, differences, missing = overview(evaluated)
    if not differences:
        raise UserError("; ".join(missing))
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    header, *rows = upright(table)
    columns = (Column(Text(name), overflow="fold") for name in header)
    shown = Table(*columns, caption="bootstrap over problems; of several seeds, Student's t", caption_justify="left")
    for row in rows:
        shown.add_row(*map(Text, row))
    console.print(shown)
    if len(runs) == 2:
        shown, differing = comparison(*(folder for _, folder in evaluated.values()))
        missing = [f"the policy is not the only difference: {line}" for line in differing]
    else:
        seeds = any(len(each.seeds) > 1 for each in settings)
        shown = comparison_table(differences, settings[0].label, "each of the others", seeds)
    console.print(shown)
    for line in missing:
        console.print(line, markup=False, style="yellow")


def report_command(arguments: list[str]) -> None:
    """Parses the command's arguments and writes the page."""
    parser = CommandParser(
        "report",
        "Write a run directory, or several side by side, as one HTML page that opens without a server:\n"
        "whether the policy learned, whether the run is healthy, where the time went, and what was\n"
        "sampled. Of several runs, it shows the settings that differ, results, and curves over one\n"
        "another; runs that differ in seed_everything alone are taken together.",
        ["report runs/arithmetic", "report runs/sweep-* --output sweep.html"],
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a run directory of fit or validate")
    parser.add_argument("--output", type=Path, help="the file to write (default: report.html in the first directory)")
    chosen = parser.parse_args(arguments)
    for run in chosen.runs:
        if not run.is_dir():
            raise UserError(f"report: {run} is not a folder; give a run directory")
    from rence_lightning.report import write_report

    print(write_report(*chosen.runs, file=chosen.output))
