"""`module.log`: figures that a callback or a module logs by itself."""

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch

from rence_lightning.distributed import gather
from rence_lightning.errors import UserError

IGNORED = {"prog_bar", "logger", "on_step", "enable_graph", "add_dataloader_idx", "rank_zero_only", "batch_size"}
"""Arguments of Lightning's `log` that do not change the figure."""


class LogsFigures(pl.LightningModule):
    """A LightningModule whose `log` and `log_dict` send figures to the loggers of this project's trainer at once.

    Each call writes a row to `metrics.csv` at the current update, and sets `trainer.callback_metrics`. Figures that a
    callback returns from `on_train_batch_end` get into the row of the update instead.
    """

    def log(self, name: str, value: Any, *args: Any, **settings: Any) -> None:
        """Logs one figure; see `log_dict`."""
        self.log_dict({name: value}, *args, **settings)

    def log_dict(self, dictionary: Mapping[str, Any], *args: Any, **settings: Any) -> None:  # type: ignore[override]
        """Logs figures by name, as they are on rank zero, or with `sync_dist=True` their mean over the ranks.

        Without it, each rank has its own values in `trainer.callback_metrics`.

        Args:
            dictionary: Numbers, or tensors of one element, by name.
            *args: Not used: Lightning's positional arguments `prog_bar`, `logger` and `on_step`.
            **settings: Keyword arguments of Lightning's `log`. Only `sync_dist` has an effect, for which every rank
                must make the call.

        Raises:
            UserError: A mean over an iteration is asked for, or a value is no number.
            RuntimeError: No run is in progress.
        """
        figures = {name: number(name, value) for name, value in dictionary.items()}
        if len(args) > 3 or settings.get("on_epoch") or settings.keys() - IGNORED - {"on_epoch", "sync_dist"}:
            raise UserError(
                "log: each call logs its value at once, so that on_epoch, reduce_fx and metric_attribute have no "
                "meaning; add the values up, and log their mean in on_train_epoch_end"
            )
        trainer: Any = self.trainer
        if settings.get("sync_dist"):
            shares = gather(figures)
            figures = {name: sum(share[name] for share in shares) / len(shares) for name in figures}
        trainer.log_metrics(figures, trainer.iteration)


def number(name: str, value: Any) -> float:
    """A figure as a number.

    Raises:
        UserError: It is none.
    """
    if isinstance(value, torch.Tensor) and value.numel() != 1:
        raise UserError(f"log: {name} is a tensor of {value.numel()} elements; log one number, such as its mean")
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise UserError(f"log: {name} is {value!r:.80}; log a number, or a tensor of one element") from error
