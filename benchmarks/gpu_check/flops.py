"""Floating-point operations of an update, and what devices can do at most."""

from transformers import Qwen3Config

# Dense bfloat16, from the makers' data sheets, without sparsity; the longest matching name counts.
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
    """The peak of the device of this name, FLOP/s, or None if it is not in the table."""
    known = [name for name in PEAK_FLOPS if name in device]
    return PEAK_FLOPS[max(known, key=len)] if known else None


def model_flops(config: Qwen3Config, prompt_tokens: int, response_tokens: int, sequences: int) -> float:
    """FLOPs of a forward and backward pass over `sequences` of this length, without any recomputation.

    A weight of a matrix product costs 2 a token forward and 4 backward; the output projection runs over response tokens
    alone. Causal attention takes 2 products of `length / 2` keys on average: 6 * length * heads * head_dim a token and
    layer, forward and backward. Norms, embeddings and activation functions are left out, as is usual.
    """
    length = prompt_tokens + response_tokens
    head_dim, key_heads = config.head_dim or 0, config.num_key_value_heads or 0
    heads, keys = config.num_attention_heads * head_dim, key_heads * head_dim
    layer = config.hidden_size * (2 * heads + 2 * keys + 3 * config.intermediate_size)
    a_token = config.num_hidden_layers * (6 * layer + 6 * length * heads)
    head = 6 * config.hidden_size * config.vocab_size
    return float(sequences * (length * a_token + response_tokens * head))
