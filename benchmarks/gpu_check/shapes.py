"""Policies of random weights at the shapes of real models."""

from typing import Any

import torch
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from benchmarks.gpu_check.settings import Shape
from rence_lightning.policy import Policy
from rence_lightning.policy.load import EMBEDDED, activation_checkpointing
from rence_lightning.training.module import PolicyModule

SHAPES: dict[Shape, dict[str, Any]] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
    "qwen3-0.6b": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16},
    "qwen3-1.7b": {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16},
    "qwen3-4b": {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32},
    "qwen3-8b": {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32},
}

STATE_BYTES = 16
"""Bytes a parameter of float32 weights, gradients and the two moments of AdamW."""

STATE_SHARE = 0.6
"""Largest share of the GPUs' memory for these, so that activations and the engine have room."""


def shape_config(shape: Shape) -> Qwen3Config:
    """The configuration of a Qwen3 model of one of the `SHAPES`."""
    tiny = shape == "tiny"
    return Qwen3Config(
        **SHAPES[shape],
        num_key_value_heads=2 if tiny else 8,
        head_dim=32 if tiny else 128,
        vocab_size=512 if tiny else 151936,
        max_position_embeddings=40960,
        tie_word_embeddings=shape != "qwen3-8b",
        eos_token_id=2,
        pad_token_id=0,
    )


def parameters(shape: Shape) -> int:
    """Number of parameters of a shape; a tied output projection is counted once."""
    with torch.device("meta"):
        model = Qwen3ForCausalLM(shape_config(shape))
    return sum(parameter.numel() for parameter in model.parameters())


def largest_shape(memory: float) -> Shape:
    """The largest shape up to that of the paper, Qwen3-4B, whose training fits.

    Args:
        memory: Memory of all GPUs together, in bytes.
    """
    fitting: Shape = "tiny"
    for shape in ("qwen3-0.6b", "qwen3-1.7b", "qwen3-4b"):
        if STATE_BYTES * parameters(shape) <= STATE_SHARE * memory:
            fitting = shape
    return fitting


class RandomPolicyModule(PolicyModule):
    """A policy of random weights of a given shape, with the tokenizer of the embedded policy, which has few tokens."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(f"random:{shape}", gradient_checkpointing=True)
        self._shape = shape

    def configure_model(self, empty: bool = False) -> None:
        if "policy" in self._modules:
            return
        with torch.device("meta" if empty else "cpu"):
            model = Qwen3ForCausalLM(shape_config(self._shape))
        activation_checkpointing(model)
        self.policy = Policy(model, AutoTokenizer.from_pretrained(EMBEDDED / "arithmetic"))
