"""`python -m rence_lightning fit` and `validate`: what needs a configuration."""

from functools import partial

from rence_lightning.cli.settings import Settings


def _run(command: str, arguments: list[str]) -> None:
    """Reads what can be read without torch, which takes seconds to import, and then builds and runs."""
    settings = Settings(arguments)
    from rence_lightning.cli.lightning_cli import run

    engine = run(command, settings).datamodule.engine
    if (close := getattr(engine, "close", None)) is not None:  # after an error, the end of the process frees its memory
        close()


fit_command, validate_command = partial(_run, "fit"), partial(_run, "validate")
