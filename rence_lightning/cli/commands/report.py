"""`python -m rence_lightning report`: the HTML page of a run directory."""

from pathlib import Path

from rence_lightning.cli.arguments import CommandParser
from rence_lightning.errors import UserError


def report_command(arguments: list[str]) -> None:
    """Parses the command's arguments and writes the page.

    Raises:
        UserError: The arguments are wrong, the path is not a run directory, or the page cannot be written.
    """
    parser = CommandParser(
        "report",
        "Write a run directory as one HTML page that opens without a server: whether the policy\n"
        "learned, whether the run is healthy, where the time went, what was dropped, and responses\n"
        "before and after.",
        ["report runs/arithmetic", "report runs/arithmetic --output arithmetic.html"],
    )
    parser.add_argument("run", type=Path, help="a run directory of fit or validate; the run may still be in progress")
    parser.add_argument("--output", type=Path, help="the file to write (default: report.html in the run directory)")
    chosen = parser.parse_args(arguments)
    if not chosen.run.is_dir():
        raise UserError(f"report: {chosen.run} is not a folder; give a run directory")
    from rence_lightning.report import write_report

    print(write_report(chosen.run, chosen.output))
