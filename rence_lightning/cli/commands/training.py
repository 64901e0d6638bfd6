"""`python -m rence_lightning fit` and `validate`: what needs a configuration."""

from rence_lightning.cli.config_files import ConfigFiles
from rence_lightning.cli.sections import check_sections
from rence_lightning.errors import UserError, one_line


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
    files = ConfigFiles(arguments)
    check_sections(arguments, files)
    from omegaconf.errors import OmegaConfBaseException

    from rence_lightning.cli.lightning_cli import CLI

    try:
        CLI(command, arguments, files)
    except OmegaConfBaseException as error:
        raise UserError(one_line(error)) from error
