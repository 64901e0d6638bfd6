"""`python -m rence_lightning fit`, `warmup` and `validate`: what needs a configuration."""

import os
import signal
from functools import partial

from rence_lightning.cli.help import print_help
from rence_lightning.cli.settings import Settings


def _run(command: str, arguments: list[str]) -> None:
    """Reads what can be read without torch, which takes seconds to import, and then builds and runs."""
    settings = Settings(arguments)
    print_help(command, settings)
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # libraries swallow a KeyboardInterrupt, and are then half imported
        said = b"SIGINT: stopped before the run began\n"
        signal.signal(signal.SIGINT, lambda number, _: os.write(2, said) and os._exit(128 + number))
    from rence_lightning.cli.build import run

    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, before)
    engine = run(command, settings).datamodule.engine
    if (close := getattr(engine, "close", None)) is not None:  # after an error, the end of the process frees its memory
        close()


fit_command, warmup_command, validate_command = (partial(_run, each) for each in ("fit", "warmup", "validate"))
