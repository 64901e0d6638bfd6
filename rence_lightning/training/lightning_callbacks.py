"""Which of Lightning's own callbacks run in this loop, and what does the work of the others."""

from collections.abc import Iterable

from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.callbacks import Callback, EarlyStopping

from rence_lightning.errors import UserError

SUPPORTED = ("EarlyStopping", "LambdaCallback", "ModelSummary", "RichModelSummary", "Timer")
"""Classes of `lightning.pytorch.callbacks` that run as they do in Lightning; an iteration is their epoch."""

PROGRESS = "the section `progress` prints the progress of a run"
MICRO_BATCH = "`trainer.micro_batch_tokens` sets how much one pass computes"
AVERAGES = "an average of the weights would be neither sampled from, nor evaluated, nor saved"

INSTEAD = {
    "ModelCheckpoint": "it does not save the prompt pool; use the section `checkpoint`",
    "OnExceptionCheckpoint": "the section `checkpoint` also saves a run that fails",
    "LearningRateMonitor": "the learning rate is in metrics.csv and every logger as `train/learning_rate`",
    "TQDMProgressBar": PROGRESS,
    "RichProgressBar": PROGRESS,
    "ProgressBar": PROGRESS,
    "GradientAccumulationScheduler": MICRO_BATCH,
    "BatchSizeFinder": MICRO_BATCH,
    "LearningRateFinder": "set the learning rate in `model.optimizer`",
    "SpikeDetection": "`trainer.on_nonfinite` and `trainer.gradient_clip_val` deal with single bad updates",
    "ThroughputMonitor": "the line of each iteration and metrics.csv have the times of rollouts and updates",
    "WeightAveraging": AVERAGES,
    "EMAWeightAveraging": AVERAGES,
    "StochasticWeightAveraging": AVERAGES,
    "BasePredictionWriter": "the samples of an evaluation are in `evaluations/` in the run directory",
}
"""Callbacks that are refused, and what to use for their purpose."""


def check_callbacks(callbacks: Iterable[Callback]) -> None:
    """Refuses what would fail in the middle of a run, or quietly do nothing; callbacks of one's own are free.

    Raises:
        UserError: One of Lightning's callbacks, or a subclass of it, does not run in this loop.
    """
    for callback in callbacks:
        base = next((kind for kind in type(callback).__mro__ if kind in LIGHTNINGS), Callback)
        if base is not Callback and base.__name__ not in SUPPORTED:
            reason = INSTEAD.get(base.__name__, "it needs parts of Lightning's own Trainer")
            raise UserError(
                f"trainer.callbacks: Lightning's {base.__name__} is not supported: {reason} (of Lightning's callbacks, "
                f"{', '.join(SUPPORTED)} are)"
            )
        if isinstance(callback, EarlyStopping) and callback._check_on_train_epoch_end is None:
            # The figures of evaluations exist after evaluations; all others exist at the end of an iteration.
            callback._check_on_train_epoch_end = not callback.monitor.startswith("evaluation/")


LIGHTNINGS = {getattr(lightning_callbacks, name) for name in lightning_callbacks.__all__}
"""Lightning's classes of callbacks."""
