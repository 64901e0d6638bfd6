"""`python -m rence_lightning fit` and `validate`: what needs a configuration."""

import re

from rence_lightning.cli.config_files import ConfigFiles
from rence_lightning.cli.package_configs import with_files_for_names
from rence_lightning.cli.sections import check_sections

CLASS_PATH = re.compile(r"^(--[\w.]+)\.class_path(?==|$)")
"""An option as YAML would name it. `--data.reward=CLASS` is the parser's own, without which it sets the class of the
arguments that follow, and then cannot write the configuration."""


def fit_command(arguments: list[str]) -> None:
    """Trains as the configuration says."""
    _run("fit", arguments)


def validate_command(arguments: list[str]) -> None:
    """Evaluates as the configuration says."""
    _run("validate", arguments)


def _run(command: str, arguments: list[str]) -> None:
    """Checks what can be checked without torch, which takes seconds to import, and then reads the configuration.

    Raises:
        UserError: The configuration is wrong.
    """
    arguments, files = prepared(arguments)
    from rence_lightning.cli.lightning_cli import run

    engine = run(command, arguments, files).datamodule.engine
    if (close := getattr(engine, "close", None)) is not None:  # after an error, the end of the process frees its memory
        close()


def prepared(arguments: list[str]) -> tuple[list[str], ConfigFiles]:
    """Arguments as the parser takes them, and the files that they name, whose sections are checked.

    Raises:
        UserError: A file cannot be read, or a section does not exist.
    """
    arguments = [CLASS_PATH.sub(r"\1", argument) for argument in with_files_for_names(arguments)]
    files = ConfigFiles(arguments)
    check_sections(arguments, files)
    return arguments, files
