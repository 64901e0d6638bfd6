"""`python -m rence_lightning report`: the HTML page of a run directory."""

import argparse
from pathlib import Path

from rence_lightning.report import REPORT, write_report


def report_command(arguments: list[str]) -> None:
    """Parses the command's arguments and writes the page.

    Raises:
        UserError: It is not a run directory, or the page cannot be written.
    """
    parser = argparse.ArgumentParser(
        prog="python -m rence_lightning report",
        description="Write a run directory as one HTML page that opens without a server: curves, what became of the "
        "prompts, evaluations, and samples side by side.",
    )
    parser.add_argument("run", type=Path, help="a run directory, of fit or of validate; the run may still be going on")
    parser.add_argument("--output", type=Path, help=f"default: {REPORT} in the run directory")
    chosen = parser.parse_args(arguments)
    print(write_report(chosen.run, chosen.output))
