"""`python -m rence_lightning report`: the HTML page of run directories."""

from pathlib import Path

from rence_lightning.cli.arguments import CommandParser
from rence_lightning.errors import UserError


def report_command(arguments: list[str]) -> None:
    """Parses the command's arguments and writes the page.

    Raises:
        UserError: The arguments are wrong, a path is not a run directory, or the page cannot be written.
    """
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
