"""Callbacks, to be imported from `rence_lightning.callbacks`, which is a link to this folder."""

from rence_lightning.callbacks.adaptive_kl import AdaptiveKL
from rence_lightning.callbacks.benchmark_evaluation import BenchmarkEvaluation
from rence_lightning.callbacks.checkpoint import Checkpoint
from rence_lightning.callbacks.export import ExportPolicy
from rence_lightning.callbacks.hooks import Callback
from rence_lightning.callbacks.old_policy import OldPolicySnapshot
from rence_lightning.callbacks.progress import Progress
from rence_lightning.callbacks.report import Report
from rence_lightning.callbacks.rollout_budget import RolloutBudget
from rence_lightning.callbacks.rollout_log import RolloutLog
from rence_lightning.callbacks.timing import Timing


def standard_callbacks() -> list[Callback]:
    """The callbacks of a run for which none are given: everything that a run needs except benchmarks."""
    measured = [OldPolicySnapshot(), AdaptiveKL(), RolloutLog(), Progress()]
    return [*measured, Checkpoint(), ExportPolicy(), Timing(), Report()]


__all__ = [
    "AdaptiveKL",
    "BenchmarkEvaluation",
    "Callback",
    "Checkpoint",
    "ExportPolicy",
    "OldPolicySnapshot",
    "Progress",
    "Report",
    "RolloutBudget",
    "RolloutLog",
    "Timing",
    "standard_callbacks",
]
