"""Training losses: pure functions of scores or log-probabilities and rewards, one file for each family."""

from rence_lightning.objectives.base import Objective, ResponseTensors, Totals
from rence_lightning.objectives.disco import DisCO, disco
from rence_lightning.objectives.dpo import AllPairs, RandomPair, all_pairs, random_pair
from rence_lightning.objectives.nca import NCA, InfoNCA, info_nca, nca
from rence_lightning.objectives.nce import (
    ContrastiveObjective,
    MultiLabelNCE,
    SoftmaxContrast,
    multi_label_nce,
    softmax_contrast,
)
from rence_lightning.objectives.nft import NFT
from rence_lightning.objectives.pacs import PACS, pacs
from rence_lightning.objectives.policy_gradient import DAPO, GRPO, GSPO, DrGRPO, MaxRL, PolicyGradient

__all__ = [
    "DAPO",
    "GRPO",
    "GSPO",
    "NCA",
    "NFT",
    "PACS",
    "AllPairs",
    "ContrastiveObjective",
    "DisCO",
    "DrGRPO",
    "InfoNCA",
    "MaxRL",
    "MultiLabelNCE",
    "Objective",
    "PolicyGradient",
    "RandomPair",
    "ResponseTensors",
    "SoftmaxContrast",
    "Totals",
    "all_pairs",
    "disco",
    "info_nca",
    "multi_label_nce",
    "nca",
    "pacs",
    "random_pair",
    "softmax_contrast",
]
