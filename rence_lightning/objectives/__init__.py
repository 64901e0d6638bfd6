"""Training losses: pure functions of scores or log-probabilities and rewards, one file for each family."""

from rence_lightning.objectives.base import Objective, ResponseTensors, Totals
from rence_lightning.objectives.dpo import AllPairs, RandomPair, all_pairs, random_pair
from rence_lightning.objectives.nca import NCA, InfoNCA, info_nca, nca
from rence_lightning.objectives.nce import (
    ContrastiveObjective,
    MultiLabelNCE,
    SoftmaxContrast,
    multi_label_nce,
    softmax_contrast,
)
from rence_lightning.objectives.policy_gradient import DAPO, GRPO, GSPO, DrGRPO, PolicyGradient

__all__ = [
    "DAPO",
    "GRPO",
    "GSPO",
    "NCA",
    "AllPairs",
    "ContrastiveObjective",
    "DrGRPO",
    "InfoNCA",
    "MultiLabelNCE",
    "Objective",
    "PolicyGradient",
    "RandomPair",
    "ResponseTensors",
    "SoftmaxContrast",
    "Totals",
    "all_pairs",
    "info_nca",
    "multi_label_nce",
    "nca",
    "random_pair",
    "softmax_contrast",
]
