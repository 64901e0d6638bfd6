"""`python -m benchmarks.precision`: the study's parts as commands."""

from jsonargparse import CLI

from benchmarks.command import run_command
from benchmarks.precision.learning import learning
from benchmarks.precision.movement import movement
from benchmarks.precision.report import report

PARTS = {"movement": movement, "learning": learning, "report": report}

if __name__ == "__main__":
    run_command(lambda: CLI(PARTS, as_positional=False))
