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


def model_flops(config: Qwen3Config, prompt_tokens: int, response_tokens: int, sequences: int) -> float:
    """FLOPs of a forward and backward pass over `sequences` sequences of this length, without any recomputation.

    A weight of a matrix product costs 2 FLOPs per token in the forward pass and 4 in the backward pass; the output
    projection runs over response tokens alone. Causal attention takes 2 products with `length / 2` keys on average,
    which makes 6 * length * heads * head_dim per token and layer, forward and backward. Norms, embeddings and
    activation functions are not counted, as is usual.
    """
    length = prompt_tokens + response_tokens
    head_dim, key_heads = config.head_dim or 0, config.num_key_value_heads or 0
    heads, keys = config.num_attention_heads * head_dim, key_heads * head_dim
    layer = config.hidden_size * (2 * heads + 2 * keys + 3 * config.intermediate_size)
    a_token = config.num_hidden_layers * (6 * layer + 6 * length * heads)
    head = 6 * config.hidden_size * config.vocab_size
    return float(sequences * (length * a_token + response_tokens * head))
