"""How a benchmark's command ends: with its message and an exit code."""

import sys
from collections.abc import Callable

from rence_lightning.errors import UserError


class RunFailed(Exception):
    """A run ended without a result."""


def run_command(command: Callable[[], object]) -> None:
    """Runs a command that can be continued; an error is a line, without a traceback.

    The exit code is 2 for wrong input, 1 for a run that failed, and 130 for an interruption.
    """
    try:
        command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except RunFailed as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        sys.exit(130)
