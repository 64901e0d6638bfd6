"""`python -m rence_lightning compare`: two evaluations of the same problems against each other."""

import sys
from pathlib import Path

from rence_lightning.cli.arguments import CommandParser
from rence_lightning.errors import UserError


def compare_command(arguments: list[str]) -> None:
    """Parses the command's arguments and prints the table.

    Raises:
        UserError: The arguments are wrong, one path holds no evaluation, or the two are not of the same problems.
    """
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

    from rence_lightning.evaluation import compare_paths

    table, differing = compare_paths(chosen.a, chosen.b)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    console.print(table)
    for line in differing:
        console.print(f"the policy is not the only difference: {line}", markup=False, style="yellow")
