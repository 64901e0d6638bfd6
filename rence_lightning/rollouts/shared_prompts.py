"""Attention that keeps the keys and values of each prompt once, for all responses to it.

The model's own attention layers call `attend` through the registry of transformers, with queries, keys and values after
the positional embedding. A response attends to its prompt, by one matrix product per prompt for all of its responses,
and to its own earlier tokens, by one small product per response; one softmax goes over both. On a CPU this took 0.44 to
0.88 of the time of `scaled_dot_product_attention` over prompts repeated for each response (8 responses per prompt, of 8
to 64 tokens, after prompts of 12 and 112), because decoding is limited by the reading of keys and values.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rence_lightning.policy.attention import special_arguments

NAME = "rence_shared_prompts"
"""Name of the attention implementation in the registry of transformers."""

GROWTH = 32
"""Smallest number of columns by which the buffers of keys and values grow."""


class UnsupportedAttentionError(Exception):
    """The model asks for attention that is not computed here, such as a sliding window."""


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    forward_state: "PromptPass | ResponsePass | None" = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """The attention function of the registry. The model's forward pass was given `forward_state` and passes it on.

    Queries are `(rows, heads, tokens, head_dim)`, keys and values `(rows, key_heads, tokens, head_dim)`, and the result
    is `(rows, tokens, heads, head_dim)`. No mask is built for a name of one's own.

    Raises:
        UnsupportedAttentionError: The layer asks for something that is not computed here.
    """
    special = special_arguments(options)
    if forward_state is None or attention_mask is not None or special:
        raise UnsupportedAttentionError(special or "its layers do not pass arguments on to attention")
    layer: Any = module.layer_idx
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    return forward_state.attend(layer, query, key, value, scaling), None


class PromptPass:
    """A forward pass over prompts of given lengths, padded on the left, that keeps their keys and values.

    Attributes:
        keys: Keys of each layer, times the scaling of the scores, `(key_heads, prompts, longest, head_dim)`.
        values: Values of each layer, of the same shape.
    """

    def __init__(self, lengths: list[int], device: torch.device) -> None:
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self._mask: Tensor | None = None
        longest = max(lengths)
        if min(lengths) < longest:
            columns = torch.arange(longest, device=device)
            token = columns >= longest - torch.tensor(lengths, device=device).unsqueeze(1)
            causal = columns <= columns.unsqueeze(1)
            # A position of the padding attends to itself, because attention to nothing is not a number.
            self._mask = (causal & token.unsqueeze(1) | (columns == columns.unsqueeze(1))).unsqueeze(1)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        dtype = _compute_dtype(value)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
        self.keys[layer] = key.transpose(0, 1).contiguous() * scaling
        self.values[layer] = value.transpose(0, 1).contiguous()
        repeats = query.shape[1] // key.shape[1]
        if repeats > 1:  # `enable_gqa` would choose a slower implementation on a CPU, and on a GPU in float32
            key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
        return nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=self._mask, is_causal=self._mask is None, scale=scaling
        ).transpose(1, 2)


@dataclass
class LayerCache:
    """The keys and values of one layer, heads first, so that a product takes them as they are.

    Keys are stored times the scaling of the scores, which is then applied once for each key.
    """

    prompt_keys: Tensor  # `(key_heads, prompts, longest, head_dim)`, padded on the left
    prompt_values: Tensor
    keys: Tensor  # of the responses' own tokens, `(key_heads, rows, capacity, head_dim)`
    values: Tensor


@dataclass
class ResponsePass:
    """Forward passes over the last token of each response.

    Attributes:
        layers: Keys and values of each layer.
        bias: Summand of the scores, `(rows, columns)`, -inf where a row does not attend; it covers the columns of the
            prompt and the first of the response's own. None if all rows attend to all columns.
        grid: Numbers of the rows of each prompt, filled up with any number to the most rows of a prompt, flattened.
            None if all prompts have the same number of rows, adjacent and in order.
        places: Place of each row in the grid, `(rows,)`.
        length: Number of columns of the responses' own tokens that are filled; the caller adds 1 after each pass.
    """

    layers: dict[int, LayerCache]
    bias: Tensor | None
    grid: Tensor | None
    places: Tensor
    length: int

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        cache, end = self.layers[layer], self.length + 1
        _reserve(cache, end)
        torch.mul(key.squeeze(2).transpose(0, 1), scaling, out=cache.keys[:, :, self.length])
        cache.values[:, :, self.length] = value.squeeze(2).transpose(0, 1)
        heads, rows = cache.keys.shape[:2]
        repeats = query.shape[1] // heads
        # One product per row and key head: its queries are the `repeats` heads that share the keys.
        query = query.to(cache.keys.dtype).view(rows, heads, repeats, -1).transpose(0, 1).contiguous()
        own_keys = cache.keys[:, :, :end].flatten(0, 1)
        own = torch.bmm(query.flatten(0, 1), own_keys.transpose(1, 2)).view(heads, rows, repeats, end)
        scores = torch.cat([self._by_prompt(query, cache.prompt_keys.transpose(2, 3)), own], dim=-1)
        if self.bias is not None:
            scores[..., : self.bias.shape[1]].add_(self.bias.unsqueeze(1))
        precise = torch.promote_types(scores.dtype, torch.float32)
        weights = scores.softmax(-1, dtype=precise).to(cache.values.dtype)
        prompt_length = cache.prompt_keys.shape[2]
        output = self._by_prompt(weights[..., :prompt_length], cache.prompt_values).flatten(0, 1)
        own_values = cache.values[:, :, :end].flatten(0, 1)
        output = output.baddbmm(weights[..., prompt_length:].flatten(0, 1), own_values)
        return output.view(heads, rows, repeats, -1).transpose(0, 1).reshape(rows, 1, heads * repeats, -1)

    def _by_prompt(self, left: Tensor, right: Tensor) -> Tensor:
        """Products `(key_heads, rows, repeats, columns)` of the rows' matrices `(key_heads, rows, repeats, inner)` with
        those of their prompts, `(key_heads, prompts, inner, columns)`."""
        heads, prompts, inner, columns = right.shape
        repeats = left.shape[2]
        if self.grid is not None:
            left = left.index_select(1, self.grid)
        product = torch.bmm(left.reshape(heads * prompts, -1, inner), right.flatten(0, 1))
        product = product.view(heads, -1, repeats, columns)
        return product if self.grid is None else product.index_select(1, self.places)


def _reserve(cache: LayerCache, columns: int) -> None:
    """Makes room for that many of the responses' own tokens, with room to spare, so that this seldom happens."""
    rows, capacity = cache.keys.shape[1:3]
    if columns > capacity:
        capacity = columns + max(GROWTH, columns // 2)
        everyone, written = torch.arange(rows, device=cache.keys.device), slice(0, columns - 1)
        cache.keys, cache.values = (resized(x, everyone, written, rows, capacity) for x in (cache.keys, cache.values))


def resized(buffer: Tensor, kept: Tensor, written: slice, rows: int, capacity: int) -> Tensor:
    """A buffer `(key_heads, rows, capacity, head_dim)` that begins with the written columns of the kept rows.

    In the other rows these columns are 0, because a column that is masked must still hold a number.
    """
    new = buffer.new_empty(buffer.shape[0], rows, capacity, buffer.shape[3])
    columns = written.stop - written.start
    new[:, : len(kept), :columns] = buffer[:, :, written].index_select(1, kept)
    new[:, len(kept) :, :columns] = 0
    return new


def _compute_dtype(tensor: Tensor) -> torch.dtype:
    """The data type in which autocast would compute products of this tensor, or that of the tensor without autocast."""
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensor.dtype
