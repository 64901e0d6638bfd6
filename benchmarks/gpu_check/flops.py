"""Floating-point operations of an update, and the peak performance of devices."""

from transformers import Qwen3Config

# FLOP/s in dense bfloat16, without sparsity, from the manufacturer's data sheets; the longest matching name applies.
PEAK_FLOPS = {
    "H200": 989e12,
    "H100": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H20": 148e12,
    "B200": 2250e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
    "RTX A6000": 155e12,
}


def peak_flops(device: str) -> float | None:
    """The peak performance of the device of this name in FLOP/s; None if it is not in the table."""
    known = [name for name in PEAK_FLOPS if name in device]
    return PEAK_FLOPS[max(known, key=len)] if known else None


def packed_flops(config: Qwen3Config, prompt_tokens: int, response_tokens: int, group_size: int) -> float:
    """FLOPs of a forward and backward pass over a packed group of responses of one length, without any recomputation.

    A weight of a matrix product costs 2 FLOPs per token in the forward pass and 4 in the backward pass; the output
    projection runs over response tokens alone. Attention takes 2 products for each pair of a token and one that it
    attends to, which makes 12 * heads * head_dim per pair and layer, forward and backward: a prompt attends to itself,
    a response to its prompt and itself. Norms, embeddings and activation functions are not counted, as is usual.
    """
    head_dim, key_heads = config.head_dim or 0, config.num_key_value_heads or 0
    heads, keys = config.num_attention_heads * head_dim, key_heads * head_dim
    layer = config.hidden_size * (2 * heads + 2 * keys + 3 * config.intermediate_size)
    tokens = prompt_tokens + group_size * response_tokens
    pairs = prompt_tokens**2 / 2 + group_size * response_tokens * (prompt_tokens + response_tokens / 2)
    layers = config.num_hidden_layers * (6 * layer * tokens + 12 * heads * pairs)
    return float(layers + 6 * config.hidden_size * config.vocab_size * group_size * response_tokens)
