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
    arguments = [CLASS_PATH.sub(r"\1", argument) for argument in with_files_for_names(arguments)]
    files = ConfigFiles(arguments)
    check_sections(arguments, files)
    from rence_lightning.cli.lightning_cli import run

    run(command, arguments, files)
