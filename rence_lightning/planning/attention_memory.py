"""The memory of a fused attention kernel, without its arithmetic.

Planning only: what it returns has the right shape, and no meaning. The eager form of FlexAttention holds the scores of
all pairs of tokens, and its kernel, which runs on GPUs, does not.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rence_lightning.attention import implementation
from rence_lightning.policy.packed_row import PackedRow

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "rence_memory_of_fused_attention"
"""Name in the registry of `transformers`."""


@contextmanager
def fused_attention(model: "PreTrainedModel") -> Iterator[None]:
    """Gives a model's attention layers the memory of a fused kernel, in place of their attention."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(NAME, memory_of_fused_attention)
    with implementation(model, NAME):
        yield


def memory_of_fused_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    packed_row: PackedRow | None = None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Allocates what a fused kernel allocates; the arguments are those of `packed_attention`."""
    heads = query.shape[1]
    if packed_row is not None:
        _ = packed_row.block_mask  # built at the first layer of a pass, in a tensor of all pairs of tokens
        if heads & (heads - 1):  # transformers repeats keys and values where the number of heads is no power of two
            key, value = (states.repeat_interleave(heads // states.shape[1], dim=1) for states in (key, value))
    return _Kernel.apply(query, key, value).transpose(1, 2).contiguous(), None


class _Kernel(torch.autograd.Function):
    """Keeps queries, keys, values, the output and the log-sum-exp of each query for the backward pass."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = torch.empty_like(query)
        log_sum_exp = torch.empty(query.shape[:3], dtype=torch.float32, device=query.device)
        ctx.save_for_backward(query, key, value, output, log_sum_exp)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        query, key, value, _, log_sum_exp = ctx.saved_tensors
        sums = torch.empty_like(log_sum_exp)  # of gradient x output, which the kernel needs for each query
        gradients = tuple(torch.empty_like(states) for states in (query, key, value))
        del sums
        return gradients
