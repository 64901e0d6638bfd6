"""The public shapes of the Qwen3 models."""

from typing import NamedTuple

from transformers import Qwen3Config


class Size(NamedTuple):
    """What differs between the models.

    Attributes:
        hidden: Size of the hidden states.
        intermediate: Size of the layers' inner states.
        layers: Number of layers.
        heads: Number of heads of the queries; there are 8 of keys and values, each with 128 numbers.
        tied: Whether the output projection is the embedding.
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    tied: bool = False


SIZES = {
    "0.6B": Size(1024, 3072, 28, 16, tied=True),
    "1.7B": Size(2048, 6144, 28, 16, tied=True),
    "4B": Size(2560, 9728, 36, 32, tied=True),
    "8B": Size(4096, 12288, 36, 32),
    "14B": Size(5120, 17408, 40, 40),
    "32B": Size(5120, 25600, 64, 64),
}
"""The sizes by the part of the models' names after `Qwen3-`."""


def qwen3(name: str) -> Qwen3Config:
    """The configuration of the model of this size."""
    size = SIZES[name]
    return Qwen3Config(
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=151936,
        max_position_embeddings=40960,
        tie_word_embeddings=size.tied,
    )
