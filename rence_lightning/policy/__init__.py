"""The policy: loading, log-probabilities of tokens, micro-batches, export, a digest of the weights."""

from rence_lightning.policy.digest import weights_digest
from rence_lightning.policy.load import export_policy, load_policy
from rence_lightning.policy.model import Policy, TokenScores

__all__ = ["Policy", "TokenScores", "export_policy", "load_policy", "weights_digest"]
