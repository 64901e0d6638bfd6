"""`python -m rence_lightning fit` and `validate`: what needs a configuration."""

from rence_lightning.cli.settings import Settings


def fit_command(arguments: list[str]) -> None:
    """Trains as the configuration says."""
    _run("fit", arguments)


def validate_command(arguments: list[str]) -> None:
    """Evaluates as the configuration says."""
    _run("validate", arguments)


def _run(command: str, arguments: list[str]) -> None:
    """Reads what can be read without torch, which takes seconds to import, and then builds and runs.

    Raises:
        UserError: A setting is wrong.
    """
    settings = Settings(arguments)
    from rence_lightning.cli.lightning_cli import run

    engine = run(command, settings).datamodule.engine
    if (close := getattr(engine, "close", None)) is not None:  # after an error, the end of the process frees its memory
        close()
