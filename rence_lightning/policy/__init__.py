"""The policy: loading, packed rows, log-probabilities of tokens, adapters, export, a digest of the weights."""

from rence_lightning.policy.adapters import LoRA
from rence_lightning.policy.comparison import compare_paths, warn_of_padding
from rence_lightning.policy.digest import weights_digest
from rence_lightning.policy.export import export_adapters, export_policy
from rence_lightning.policy.load import load_policy
from rence_lightning.policy.model import Policy
from rence_lightning.policy.output_projection import TokenScores
from rence_lightning.policy.packed_row import PackedRow, Segment

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
    "warn_of_padding",
    "weights_digest",
]
