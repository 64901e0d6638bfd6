"""Attention over a packed row, as a function in the registry of `transformers`: no code of a model is touched.

On a CPU, scaled dot product attention over blocks of like groups, so that padding exists inside attention only. On a
GPU, FlexAttention with a block mask over the row.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from rence_lightning.errors import UserError
from rence_lightning.policy.attention import special_arguments, special_attention
from rence_lightning.policy.packed_row import Block, PackedRow

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "rence_packed_row"
"""Name of the attention in the registry, and so the model's `config._attn_implementation`."""


def enable(model: "PreTrainedModel") -> bool:
    """Makes a model attend over packed rows where the registry reaches it; returns whether it does.

    It stays enabled, because activation checkpointing calls attention again in the backward pass. Other calls of the
    model without an attention mask attend causally.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if special_attention(model):
        return False
    ALL_ATTENTION_FUNCTIONS.register(NAME, packed_attention)
    model.set_attn_implementation(NAME)
    return bool(model.config._attn_implementation == NAME)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    packed_row: PackedRow | None = None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Attention of the tokens of `packed_row`; without one, causal attention of padded rows.

    Queries, after rotary embedding, are `(rows, heads, tokens, head dimension)`, one row if it is packed; keys and
    values have their own number of heads; the result is `(rows, tokens, heads, head dimension)`. The model passes
    `packed_row` on to its layers. Raises `UserError` if a layer asks for more than full causal attention.
    """
    if packed_row is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **settings)
        return output, None
    if special := special_arguments(settings):
        raise UserError(
            f"policy: {type(module).__name__} attends with {special}, which packed rows do not support; set "
            "model.attn_implementation to eager"
        )
    if query.is_cuda:
        from transformers.integrations.flex_attention import flex_attention_forward

        # The kernel for decoding, which torch would take for a row of fewer than 128 tokens, refuses some lengths.
        options = {"FORCE_USE_FLEX_ATTENTION": True}
        # Past torch's limit of 8 compiled variants, the kernel would run unfused, with hundreds of gigabytes of scores.
        with torch._dynamo.config.patch(recompile_limit=64, fail_on_recompile_limit_hit=True):
            output, _ = flex_attention_forward(
                module, query, key, value, packed_row.block_mask, scaling=scaling, kernel_options=options
            )
        return output, None
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
    outputs = [_attend(block, q, k, v, scaling) for block in packed_row.blocks]
    return torch.cat(outputs).index_select(0, packed_row.order).unsqueeze(0), None


def _attend(block: Block, q: Tensor, k: Tensor, v: Tensor, scaling: float | None) -> Tensor:
    """Outputs `(kept, heads, dim)` of the tokens that a block keeps, from the queries, keys and values of the row."""
    q, k, v = _at(block.queries, q), _at(block.keys, k), _at(block.keys, v)
    causal = block.mask is None
    output = scaled_dot_product_attention(q, k, v, block.mask, is_causal=causal, scale=scaling, enable_gqa=True)
    return output.transpose(1, 2).flatten(0, 1).index_select(0, block.kept)


def _at(places: Tensor, states: Tensor) -> Tensor:
    """The states at places `(rows, length)` of the row, `(rows, heads, length, dim)`; those of padding are not used."""
    return states.index_select(0, places.flatten()).unflatten(0, places.shape).transpose(1, 2)
