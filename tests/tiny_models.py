"""Tiny random models of several architectures, in memory."""

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from rence_lightning.policy import Policy

EOS, PAD, VOCABULARY = 1, 0, 40
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "pad_token_id": PAD,
    "eos_token_id": EOS,
    "bos_token_id": 2,
}
ARCHITECTURES = ["qwen3-tied", "qwen3-untied", "llama-tied", "llama-untied"]


class NoTokenizer:
    """Placeholder for a tokenizer in tests that need no text."""

    pad_token_id = PAD


def tiny_model(architecture: str = "qwen3-tied", seed: int = 0, head_dim: int = 16) -> PreTrainedModel:
    torch.manual_seed(seed)
    shape = {**SHAPE, "head_dim": head_dim}
    family, _, tied = architecture.partition("-")
    if family == "gemma2":
        return Gemma2ForCausalLM(Gemma2Config(**shape, final_logit_softcapping=1.0)).eval()
    if family == "granite":
        return GraniteForCausalLM(GraniteConfig(**shape, logits_scaling=0.1)).eval()
    if family == "gpt2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
        special = {"bos_token_id": 2, "eos_token_id": EOS, "pad_token_id": PAD}
        dropout = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
        return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, **sizes, **special, **dropout)).eval()
    config, model = (Qwen3Config, Qwen3ForCausalLM) if family == "qwen3" else (LlamaConfig, LlamaForCausalLM)
    built = model(config(**shape, tie_word_embeddings=tied == "tied")).eval()
    with torch.no_grad():  # sharper than a fresh initialisation, whose every token is about equally likely
        built.get_output_embeddings().weight.mul_(4 if tied == "tied" else 20)
    return built


def in_float64(policy: Policy) -> Policy:
    """A policy in float64 throughout: the norms of `transformers` compute in float32 whatever their input."""
    policy.double()
    for module in list(policy.modules()):
        for name, child in list(module.named_children()):
            if type(child).__name__.endswith("RMSNorm"):
                gemma = "Gemma" in type(child).__name__  # which multiplies by 1 + weight
                eps = child.eps if gemma else child.variance_epsilon
                norm = torch.nn.RMSNorm(len(child.weight), eps, dtype=torch.float64)
                norm.weight = torch.nn.Parameter(child.weight + 1) if gemma else child.weight
                setattr(module, name, norm)
    return policy


def tiny_policy(architecture: str = "qwen3-tied", seed: int = 0, head_dim: int = 16) -> Policy:
    return Policy(tiny_model(architecture, seed, head_dim), NoTokenizer())  # type: ignore[arg-type]
