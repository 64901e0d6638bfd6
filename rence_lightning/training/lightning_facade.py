"""The attributes of a Lightning trainer that Lightning's own callbacks and loggers read, provided by the Fabric loop.

An iteration (rollouts and all updates on them) is Lightning's epoch; an update is its training batch and global step.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies import Strategy
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.trainer.states import RunningStage, TrainerFn, TrainerState, TrainerStatus

from rence_lightning.distributed import agree_on, connect, disconnect, gather
from rence_lightning.errors import call_plugin, one_line
from rence_lightning.training.lightning_callbacks import check_callbacks

LOCAL_HOOKS = ("on_tokens", "on_stale_samples")
"""Hooks that are not called on every rank alike."""


class LightningFacade:
    """State and hooks shared with Lightning's callbacks.

    `lightning_callbacks` lists which of Lightning's callbacks are supported, and refuses the others.
    """

    fast_dev_run = False
    sanity_checking = False
    enable_validation = True
    val_check_interval = 1.0
    check_val_every_n_epoch = None
    """Not 1, so that EarlyStopping checks its metric after evaluations by default: not every iteration has one."""
    num_sanity_val_batches = 0

    run_dir: Path
    timeout: timedelta

    def __init__(self, fabric: Fabric, callbacks: list[Callback]) -> None:
        check_callbacks(callbacks)
        self.fabric = fabric
        self.callbacks = callbacks
        self.loggers: list[Logger] = []
        self.optimizers: list[Any] = []
        self.lr_scheduler_configs: list[Any] = []
        self.callback_metrics: dict[str, Any] = {}
        self.state = TrainerState(status=TrainerStatus.INITIALIZING)
        self.global_step = 0
        self.current_epoch = 0
        self.should_stop = False

    @property
    def _module(self) -> pl.LightningModule:
        module: pl.LightningModule = self.lightning_module  # type: ignore[attr-defined]
        return module

    def call(self, hook: str, *args: Any) -> None:
        """Calls a hook of every callback that has it, in order, then that of the module."""
        for callback in self.callbacks:
            if self._call_one(callback, hook, *args) and hook not in LOCAL_HOOKS:
                gather(None)  # what a callback raises on one rank ends all ranks here, where the state can be saved
        own = getattr(self._module, hook, None)
        if own is not None:
            own(*args)

    def _call_one(self, callback: Callback, hook: str, *args: Any) -> bool:
        """Calls a hook, unless it is the empty one of a base class; returns whether it did."""
        method = getattr(callback, hook, None)
        if method is None or getattr(method, "__qualname__", "").startswith("Callback."):
            return False
        call = functools.partial(method, cast(pl.Trainer, self), self._module, *args)
        call_plugin(callback, f"{hook}()", call)
        return True

    @property
    def strategy(self) -> Strategy:
        return self.fabric.strategy

    @property
    def logger(self) -> Logger | None:
        return self.loggers[0] if self.loggers else None

    @property
    def is_global_zero(self) -> bool:
        return self.fabric.is_global_zero

    @property
    def global_rank(self) -> int:
        return self.fabric.global_rank

    @property
    def local_rank(self) -> int:
        return self.fabric.local_rank

    @property
    def world_size(self) -> int:
        return self.fabric.world_size

    @property
    def precision(self) -> str:
        return str(self.strategy.precision.precision)

    @property
    def training(self) -> bool:
        return self.state.fn == TrainerFn.FITTING

    def enter(self, function: TrainerFn) -> None:
        self.state.fn = function
        self.state.status = TrainerStatus.RUNNING
        self.state.stage = RunningStage.TRAINING if function == TrainerFn.FITTING else RunningStage.VALIDATING

    @contextmanager
    def running(self) -> Iterator[None]:
        """Ends all ranks in the same way, and reports the outcome to callbacks and loggers.

        Raises:
            BaseException: The error that all ranks end with, if one of them has failed.
        """
        connect(self.timeout)
        status, agreed = TrainerStatus.INTERRUPTED, None
        try:
            yield
            gather(None)  # a failure in the last step of another rank ends this rank as well
            status = TrainerStatus.FINISHED
        except BaseException as error:
            agreed = agree_on(error)
            self._call_after(agreed, "on_exception", agreed)
            if agreed is error:
                raise
            raise agreed from error
        finally:
            self.state.status = status
            try:
                self._finalize(status, agreed)
            finally:
                self.close()
                disconnect()

    def _finalize(self, status: TrainerStatus, error: BaseException | None) -> None:
        if self.is_global_zero:
            for logger in self.loggers:
                logger.finalize("success" if status == TrainerStatus.FINISHED else "failed")
        self._call_after(error, "teardown", str(self.state.fn))

    def _call_after(self, error: BaseException | None, hook: str, *args: Any) -> None:
        """Calls a hook of every callback, whatever another one raises; adds that to the error that ends the run."""
        for callback in self.callbacks:
            try:
                self._call_one(callback, hook, *args)
            except Exception as second:
                if error is None:
                    raise
                error.add_note(f"then, in {hook}(): {one_line(second)}")

    def close(self) -> None:
        """Releases the resources of the session."""

    def log_metrics(self, metrics: dict[str, float], iteration: int) -> None:
        """Sends figures to the loggers, at the current update, and to `callback_metrics` for other callbacks.

        Args:
            metrics: Figures by name.
            iteration: Iteration that the figures belong to, counted from 1; 0 is before training.
        """
        self.callback_metrics.update({name: torch.tensor(value) for name, value in metrics.items()})
        if self.is_global_zero:
            for logger in self.loggers:
                logger.log_metrics({**metrics, "iteration": iteration}, step=self.global_step)

    @property
    def log_dir(self) -> str:
        return str(self.run_dir)

    @property
    def default_root_dir(self) -> str:
        return str(self.run_dir)
