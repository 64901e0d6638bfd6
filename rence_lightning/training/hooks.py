"""The callbacks of a run: how their hooks are called, and which of Lightning's own run in this loop."""

from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.callbacks import Callback, EarlyStopping

from rence_lightning.distributed import gather
from rence_lightning.errors import UserError, call_plugin, did_you_mean, one_line

HOOKS = (
    *("on_fit_start", "on_train_start", "on_train_epoch_start", "on_draw", "on_tokens", "on_rollouts_end"),
    *("on_updates_start", "on_train_batch_start", "on_passes_end", "on_train_batch_end", "on_train_epoch_end"),
    *("on_train_end", "on_export", "on_fit_end", "on_already_finished", "on_exception"),
    *("on_validation_start", "on_evaluate", "on_evaluation_start", "on_evaluation_end"),
    "on_validation_end",
)
"""The hooks that are called, beside `setup` and `teardown`."""

LOCAL_HOOKS = ("on_tokens",)
"""Hooks that are not called on every rank alike."""

ELSEWHERE = ("on_test_", "on_predict_", "on_sanity_check_")
"""Starts of the names of Lightning's hooks for what does not exist here, in callbacks that are used there as well."""


class Hooks:
    """Calls the hooks of callbacks in their order, each as `callback.hook(trainer, module, *args)`.

    Args:
        trainer: Trainer that the hooks are given, with its `callbacks` and `lightning_module`.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    def __call__(self, hook: str, *args: Any) -> dict[str, float]:
        """Calls a hook of every callback that has it, then that of the module; returns the figures they return."""
        figures: dict[str, float] = {}
        for callback in self._trainer.callbacks:
            method = getattr(callback, hook, None)
            if method is None or getattr(method, "__qualname__", "").startswith("Callback."):
                continue  # the empty hook of a base class
            figures |= self._call(callback, hook, *args)
            if hook not in LOCAL_HOOKS:
                gather(None)  # what a callback raises on one rank ends all ranks here, where the state can be saved
        own = getattr(self._trainer.lightning_module, hook, None)
        if own is not None:
            own(*args)
        return figures

    def after(self, error: BaseException | None, hook: str, *args: Any) -> None:
        """Calls a hook of every callback, whatever another one raises; adds that to the error that ends the run."""
        for callback in self._trainer.callbacks:
            try:
                self._call(callback, hook, *args)
            except Exception as second:
                if error is None:
                    raise
                error.add_note(f"then, in {hook}(): {one_line(second)}")

    def _call(self, callback: Callback, hook: str, *args: Any) -> dict[str, float]:
        def work() -> dict[str, float]:
            method = getattr(callback, hook, lambda *_: None)
            returned = method(self._trainer, self._trainer.lightning_module, *args)
            return {name: float(value) for name, value in returned.items()} if isinstance(returned, Mapping) else {}

        return call_plugin(callback, f"{hook}()", work)


SUPPORTED = ("EarlyStopping", "LambdaCallback", "ModelSummary", "RichModelSummary", "Timer")
"""Classes of `lightning.pytorch.callbacks` that run as they do in Lightning; an iteration is their epoch."""

INSTEAD = {
    "ModelCheckpoint": "it does not save the prompt pool; use the section `checkpoint`",
    "LearningRateMonitor": "the learning rate is in metrics.csv and every logger as `train/learning_rate`",
}
"""Callbacks that are refused, and what to use for their purpose; progress bars are the section `progress`."""


def check_callbacks(callbacks: Iterable[Callback]) -> None:
    """Refuses what would fail in the middle of a run, or quietly do nothing; callbacks of one's own are free.

    Raises:
        UserError: One of Lightning's callbacks, or a subclass of it, does not run in this loop; a callback has a method
            that looks like a hook and is never called.
    """
    for callback in callbacks:
        lightnings = {getattr(lightning_callbacks, name) for name in lightning_callbacks.__all__}
        base = next((kind for kind in type(callback).__mro__ if kind in lightnings), Callback)
        if base is not Callback and base.__name__ not in SUPPORTED:
            reason = INSTEAD.get(base.__name__, "it needs parts of Lightning's own Trainer")
            raise UserError(
                f"trainer.callbacks: Lightning's {base.__name__} is not supported: {reason} (of Lightning's callbacks, "
                f"{', '.join(SUPPORTED)} are)"
            )
        if isinstance(callback, EarlyStopping) and callback._check_on_train_epoch_end is None:
            # The figures of evaluations exist after evaluations; all others exist at the end of an iteration.
            callback._check_on_train_epoch_end = not callback.monitor.startswith("evaluation/")
        _check_names(type(callback))


def _check_names(kind: type) -> None:
    """Refuses a method that is named like a hook, which nothing would call; Lightning's own classes are known."""
    own = [each for each in kind.__mro__ if not each.__module__.startswith("lightning.")]
    for name in (name for each in own for name in vars(each) if name.startswith("on_")):
        if name not in HOOKS and not name.startswith(ELSEWHERE):
            hint = did_you_mean(name, HOOKS) or f" (the hooks are {', '.join(HOOKS)})"
            raise UserError(f"trainer.callbacks: {kind.__name__}.{name} is never called: no hook has this name{hint}")
