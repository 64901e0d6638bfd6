"""What the commands share: the parser of their arguments, examples in their help, and no bars in log files."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rence_lightning.errors import UserError

SCRIPT = "rence-lightning"
"""Name of the command that `pip install` puts on the path."""

PROGRAM = SCRIPT if Path(sys.argv[0]).name == SCRIPT else "python -m rence_lightning"
"""How this process was started, for usage and examples."""


class CommandParser(argparse.ArgumentParser):
    """The parser of a command, or of all: its description ends with examples, and an error is one line."""

    def __init__(
        self, command: str | None = None, description: str = "", examples: Sequence[str] = (), epilogue: str = ""
    ) -> None:
        super().__init__(
            prog=PROGRAM if command is None else f"{PROGRAM} {command}",
            description=with_examples(description, examples),
            epilog=epilogue,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Refuses the arguments with a `UserError`."""
        raise UserError(f"{message} ({self.prog} --help explains the arguments)")


def with_examples(description: str, examples: Sequence[str]) -> str:
    """A description followed by example calls, one a line."""
    return "\n".join([description, "", "examples:", *(f"  {PROGRAM} {example}" for example in examples)])


def hide_bars_in_files() -> None:
    """Switches off the progress bars of transformers where stderr is a file, which would hold every step of them."""
    if not sys.stderr.isatty():
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
