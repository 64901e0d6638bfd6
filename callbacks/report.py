"""The report of a run as an HTML page, at the end of the run."""

import shlex
import warnings

from rence_lightning.callbacks.hooks import Callback
from rence_lightning.errors import Stopped, one_line
from rence_lightning.report import write_report
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.trainer import Trainer


class Report(Callback):
    """Writes `report.html` in the run directory at the end of `fit` and of `validate`, and where an error ends `fit`.

    Args:
        enabled: Whether to write the report; `python -m rence_lightning report RUN` writes it at any later time.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled

    def on_fit_end(self, trainer: Trainer, module: PolicyModule) -> None:
        self._write(trainer)

    def on_validation_end(self, trainer: Trainer, module: PolicyModule) -> None:
        if not trainer.training:
            self._write(trainer)

    def on_exception(self, trainer: Trainer, module: PolicyModule, exception: BaseException) -> None:
        """Writes the error to `run.json`, for the report of a run that failed."""
        interrupted = isinstance(exception, Stopped | KeyboardInterrupt)
        if trainer.training and trainer.session.opened and trainer.is_global_zero and not interrupted:
            trainer.session.run = trainer.session.run.failed(f"{type(exception).__name__}: {one_line(exception)}")
            if trainer.current_epoch:
                self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        if not self.enabled or not trainer.is_global_zero:
            return
        try:
            print(f"report          {write_report(trainer.run_dir, at_end=trainer.session.run.error is None)}")
        except Exception as error:  # the run is complete and saved: the report can be written later
            again = f"python -m rence_lightning report {shlex.quote(str(trainer.run_dir))}"
            warnings.warn(f"the report was not written ({error}); try again with {again}", stacklevel=2)
