"""The command line, called within the process."""

import os
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from rence_lightning.cli.build import read_config  # Lightning logs to the stderr of its import, not a test's
from rence_lightning.cli.main import main
from rence_lightning.cli.settings import Settings

ROOT = Path(__file__).parent.parent
CONF = ROOT / "conf"


def config_of(command: str, *arguments: str) -> dict[str, Any]:
    """The complete configuration of a command line, which is read once in a session."""
    return deepcopy(_read(command, arguments, (Path.cwd(), os.environ.get("RENCE_DATA"))))


@cache
def _read(command: str, arguments: tuple[str, ...], surroundings: tuple[Any, ...]) -> dict[str, Any]:
    return read_config(command, Settings(arguments))


def error_of(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a command ends with."""
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    output = capfd.readouterr()
    assert end.value.code == 2, output
    errors = [line for line in output.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in output.err, output.err
    assert output.err.rstrip().endswith(errors[0]), "the error must be one line, and the last"
    assert len(errors[0]) < 400, f"too long to read: {errors[0]}"
    assert "usage:" not in output.err and "Union" not in errors[0]
    return errors[0]
