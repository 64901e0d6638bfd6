"""`python -m rence_lightning compare`: two evaluations of the same problems against each other."""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from rence_lightning.evaluation import compare_paths


def compare_command(arguments: list[str]) -> None:
    """Parses the command's arguments and prints the table.

    Raises:
        UserError: One holds no evaluation, or they are not of the same problems.
    """
    parser = argparse.ArgumentParser(
        prog="python -m rence_lightning compare",
        description="B against A on the benchmarks that both have finished: the difference in avg@k with its 95%% "
        "confidence interval, by paired bootstrap over problems. Each is a run directory, of which the last "
        "evaluation counts, or one of the folders in its evaluations/.",
    )
    parser.add_argument("a", type=Path, metavar="A")
    parser.add_argument("b", type=Path, metavar="B")
    chosen = parser.parse_args(arguments)
    table, differing = compare_paths(chosen.a, chosen.b)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    console.print(table)
    for line in differing:
        console.print(f"not the policy alone differs: {line}", markup=False, style="yellow")
