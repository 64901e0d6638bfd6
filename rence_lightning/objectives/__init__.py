"""Training losses: one family a file, pure functions of scores or log-probabilities and rewards."""

from rence_lightning.objectives.base import Groups, Objective, Totals
from rence_lightning.objectives.nce import (
    ContrastiveObjective,
    MultiLabelNCE,
    SoftmaxContrast,
    multi_label_nce,
    softmax_contrast,
)

__all__ = [
    "ContrastiveObjective",
    "Groups",
    "MultiLabelNCE",
    "Objective",
    "SoftmaxContrast",
    "Totals",
    "multi_label_nce",
    "softmax_contrast",
]
