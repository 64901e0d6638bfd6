"""The policy: loading, packed rows, log-probabilities of tokens, adapters, export, a digest of the weights."""

from rence_lightning.policy.adapters import LoRA
from rence_lightning.policy.export import export_adapters, export_policy
from rence_lightning.policy.load import load_policy
from rence_lightning.policy.model import Policy, compare_paths
from rence_lightning.policy.output_projection import TokenScores
from rence_lightning.policy.packed_row import PackedRow, Segment
from rence_lightning.policy.weights import sum_of_bits, weights_digest

__all__ = [
    "LoRA",
    "PackedRow",
    "Policy",
    "Segment",
    "TokenScores",
    "compare_paths",
    "export_adapters",
    "export_policy",
    "load_policy",
    "sum_of_bits",
    "weights_digest",
]
