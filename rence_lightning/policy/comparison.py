"""The comparison of packed and padded rows, with which a run begins."""

import warnings

import torch

from rence_lightning.errors import UserError
from rence_lightning.policy.model import Policy
from rence_lightning.policy.packed_row import PackedRow

SEGMENTS, RESPONSES = 2, 2
"""Number of prompts, and of responses to each, that are compared: a few, because padding them takes time."""

EXACT, ROUNDED = 1e-4, 0.1
"""Largest mean difference of a log-probability, in float32 and in half precision. Rounding makes 1e-6 and 1e-2."""


@torch.no_grad()
def compare_paths(policy: Policy, row: PackedRow) -> None:
    """Compares the log-probabilities of some responses of a row, computed as they are and in padded rows.

    Where the policy is sharded, this is a collective: all ranks must call it.

    Raises:
        UserError: The two results differ, because the model has another attention than the full causal one.
    """
    few = (1, 1) if has_no_fast_padding(policy, row.input_ids.device.type) else (SEGMENTS, RESPONSES)
    sample = row.sample(*few)
    packed, padded = (policy(sample, packed=each).log_probs for each in (True, False))
    half = torch.is_autocast_enabled(packed.device.type) or policy.model.dtype in (torch.bfloat16, torch.float16)
    difference, limit = float((packed - padded).abs().mean()), ROUNDED if half else EXACT
    if not difference <= limit:
        raise UserError(
            f"model: packed rows give log-probabilities that differ from those of padded rows by {difference:.1e} per "
            f"token (limit {limit:.0e}): {type(policy.model).__name__} has another attention than the full causal one; "
            "set model.attn_implementation to sdpa, which pads"
        )


def has_no_fast_padding(policy: Policy, device: str) -> bool:
    """Whether attention of padded rows takes memory that grows with the square of their length.

    In float32, CUDA has no kernel for queries that share keys: FlashAttention takes 16 bits only, and the
    memory-efficient kernel no shared keys. Packed rows are computed by FlexAttention, which takes both.
    """
    config = policy.model.config.get_text_config()
    shared = getattr(config, "num_key_value_heads", None) not in (None, config.num_attention_heads)
    return device == "cuda" and shared and policy.model.dtype == torch.float32 and not torch.is_autocast_enabled(device)


def warn_of_padding(policy: Policy, device: str) -> None:
    """Warns, in one line, of a policy whose responses are padded in float32 on a GPU."""
    if not policy.packed and has_no_fast_padding(policy, device):
        warnings.warn(
            "model: padded rows in float32 have no fast attention on a GPU where queries share keys: memory grows with "
            "the square of their length; set trainer.precision to bf16-mixed, or leave model.attn_implementation out",
            stacklevel=2,
        )
