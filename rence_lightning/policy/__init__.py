"""The policy: loading, packed rows, log-probabilities of tokens, export, a digest of the weights."""

from rence_lightning.policy.comparison import compare_paths
from rence_lightning.policy.digest import weights_digest
from rence_lightning.policy.load import export_policy, load_policy
from rence_lightning.policy.model import Policy
from rence_lightning.policy.output_projection import TokenScores
from rence_lightning.policy.packed_row import PackedRow, Segment

__all__ = [
    "PackedRow",
    "Policy",
    "Segment",
    "TokenScores",
    "compare_paths",
    "export_policy",
    "load_policy",
    "weights_digest",
]
