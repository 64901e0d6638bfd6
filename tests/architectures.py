"""Tiny random models of many architectures, with weights at which windows, scales and soft-caps matter."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from rence_lightning.policy.load import EMBEDDED

TOKENIZER = AutoTokenizer.from_pretrained(EMBEDDED / "arithmetic")
VOCABULARY = len(TOKENIZER)
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": TOKENIZER.pad_token_id,
    "bos_token_id": TOKENIZER.bos_token_id,
    "eos_token_id": TOKENIZER.eos_token_id,
}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
SHARED = EXPERTS | {"shared_expert_intermediate_size": 16}
LATENT = {"kv_lora_rank": 16, "q_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
INDEXED = {"index_topk": 6, "index_n_heads": 64, "index_head_dim": 8, "pad_token_id": None}  # its zero state has ties
ROUTED = {"n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
WINDOW = {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]}
LINEAR = {"layer_types": ["linear_attention", "full_attention"]}
DELTA = LINEAR | {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
DELTA |= {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_expand": 2}
MAMBA |= {"mamba_dt_rank": 4, "mamba_chunk_size": 4}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}


@dataclass(frozen=True)
class Architecture:
    """A class of `transformers`, its sizes, and settings without which the same weights compute something else."""

    config: str
    sizes: dict[str, Any] = field(default_factory=dict)
    without: dict[str, Any] = field(default_factory=dict)
    refused: str = ""
    fast: bool = False


PER_LAYER = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCABULARY, "num_kv_shared_layers": 0}
SCALAR = {"query_pre_attn_scalar": 8}
CAPPED = {"final_logit_softcapping": 3.0}
NO_WINDOW = {"sliding_window": 4096}

ARCHITECTURES = {
    "Llama": Architecture("LlamaConfig"),
    "Llama 4": Architecture(
        "Llama4TextConfig",
        {"intermediate_size_mlp": 48, "interleave_moe_layer_step": 2, "attention_chunk_size": 5, **EXPERTS}
        | {"layer_types": ["chunked_attention", "full_attention"]},
        {"attention_chunk_size": 4096},
    ),
    "Qwen2": Architecture("Qwen2Config"),
    "Qwen3": Architecture("Qwen3Config", fast=True),
    "Qwen3-MoE": Architecture("Qwen3MoeConfig", EXPERTS, fast=True),
    "Qwen3-Next": Architecture("Qwen3NextConfig", SHARED | DELTA),
    "Qwen3.5": Architecture("Qwen3_5TextConfig", DELTA, fast=True),
    "Qwen3.5-MoE": Architecture("Qwen3_5MoeTextConfig", SHARED | DELTA),
    "Qwen4-Exp": Architecture(
        "Qwen4ExpTextConfig",
        SHARED
        | DELTA
        | {"layer_types": ["linear_attention", "indexed_attention"], "hc_lowrank": 8, "pad_token_id": None}
        | {"indexer_n_heads": 64, "indexer_kv_heads": 1, "indexer_head_dim": 8}
        | {"indexer_budget": 6, "indexer_compress_ratio": 2},
        {"indexer_budget": 256},
    ),
    "Mistral": Architecture("MistralConfig", {"sliding_window": 5}, {"sliding_window": None}, fast=True),
    "Mixtral": Architecture("MixtralConfig", EXPERTS),
    "Ministral": Architecture("MinistralConfig", WINDOW, {"layer_types": ["full_attention"] * 2}),
    "Ministral 3": Architecture("Ministral3Config"),
    "Gemma": Architecture("GemmaConfig"),
    "Gemma 2": Architecture(
        "Gemma2Config",
        WINDOW | SCALAR | CAPPED | {"attn_logit_softcapping": 1.0},
        {"attn_logit_softcapping": None},
        fast=True,
    ),
    "Gemma 3": Architecture("Gemma3TextConfig", WINDOW | SCALAR, NO_WINDOW),
    "Gemma 3n": Architecture(
        "Gemma3nTextConfig",
        WINDOW
        | PER_LAYER
        | CAPPED
        | {"laurel_rank": 8, "intermediate_size": [48, 48]}
        | {"activation_sparsity_pattern": [0.5, 0.0]},
        {"final_logit_softcapping": 30.0},
    ),
    "Gemma 4": Architecture("Gemma4TextConfig", WINDOW | PER_LAYER | CAPPED | {"global_head_dim": 16}, NO_WINDOW),
    "DeepSeek-V3": Architecture("DeepseekV3Config", EXPERTS | LATENT | ROUTED | {"num_key_value_heads": 4}, fast=True),
    "DeepSeek-V3.2": Architecture(
        "DeepseekV32Config",
        EXPERTS | LATENT | ROUTED | INDEXED | {"num_key_value_heads": 4},
        {"index_topk": 256},
    ),
    "DeepSeek-V4": Architecture(
        "DeepseekV4Config",
        EXPERTS
        | INDEXED
        | {"n_routed_experts": 4, "q_lora_rank": 16, "index_topk": 2}
        | {"layer_types": ["sliding_attention", "compressed_sparse_attention"], "sliding_window": 5}
        | {"compress_rates": {"compressed_sparse_attention": 2, "heavily_compressed_attention": 4}},
        refused="cannot sample DeepseekV4For",
    ),
    "SmolLM3": Architecture("SmolLM3Config", {"no_rope_layers": [1, 0]}),
    "Phi-3": Architecture("Phi3Config"),
    "Phi-3.5-MoE": Architecture("PhimoeConfig", EXPERTS),
    "OLMo-2": Architecture("Olmo2Config"),
    "OLMo-3": Architecture("Olmo3Config", WINDOW, NO_WINDOW),
    "OLMo-Hybrid": Architecture("OlmoHybridConfig", DELTA),
    "GLM-4": Architecture("Glm4Config"),
    "GLM-4-MoE": Architecture("Glm4MoeConfig", EXPERTS | ROUTED),
    "EXAONE-4": Architecture("Exaone4Config", WINDOW, NO_WINDOW),
    "gpt-oss": Architecture("GptOssConfig", EXPERTS | WINDOW, NO_WINDOW),
    "Flint": Architecture(
        "FlintConfig", SHARED | {"layer_types": ["full_attention"] * 2, "mlp_only_layers": [0]}, fast=True
    ),
    "ERNIE 4.5 MoE": Architecture(
        "Ernie4_5_MoeConfig",
        {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 16, "moe_num_shared_experts": 1},
    ),
    "Kimi Linear": Architecture(
        "KimiLinearConfig",
        EXPERTS | LATENT | ROUTED | LINEAR | {"num_key_value_heads": 4, "linear_head_dim": 8, "linear_num_heads": 4},
    ),
    "Inkling": Architecture(
        "InklingTextConfig",
        EXPERTS
        | ROUTED
        | {"layer_types": ["hybrid_sliding", "hybrid"], "sliding_window_size": 5, "logits_mup_width_multiplier": 4.0},
        {"logits_mup_width_multiplier": 1.0},
    ),
    "MiMo-V2-Flash": Architecture("MiMoV2FlashConfig", EXPERTS | ROUTED | WINDOW | {"v_head_dim": 8}, NO_WINDOW),
    "GPT-2": Architecture("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}),
    "BLOOM": Architecture("BloomConfig", {"n_layer": 2, "n_head": 4}),
    "Granite": Architecture("GraniteConfig", {"logits_scaling": 4.0}, {"logits_scaling": 1.0}),
    "GraniteMoE": Architecture("GraniteMoeConfig", EXPERTS | {"logits_scaling": 4.0}),
    "GraniteMoE-Hybrid": Architecture(
        "GraniteMoeHybridConfig",
        EXPERTS
        | MAMBA
        | {"layer_types": ["mamba", "attention"], "logits_scaling": 4.0, "shared_intermediate_size": 16},
    ),
    "Cohere": Architecture("CohereConfig", {"logit_scale": 0.25}, {"logit_scale": 1.0}),
    "Cohere 2": Architecture("Cohere2Config", WINDOW | {"logit_scale": 0.25}, NO_WINDOW),
    "Falcon-H1": Architecture("FalconH1Config", MAMBA | {"mamba_d_ssm": 64, "lm_head_multiplier": 0.25}),
    "LFM2": Architecture("Lfm2Config", {"layer_types": ["conv", "full_attention"]}, fast=True),
    "Mamba": Architecture("MambaConfig", {"state_size": 8, "time_step_rank": 4}),
    "Mamba-2": Architecture(
        "Mamba2Config", {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 4}, fast=True
    ),
    "Bamba": Architecture("BambaConfig", MAMBA | {"attn_layer_indices": [1]}),
    "Jamba": Architecture(
        "JambaConfig",
        EXPERTS
        | MAMBA
        | {"attn_layer_offset": 1, "attn_layer_period": 2}
        | {"expert_layer_offset": 1, "expert_layer_period": 2},
    ),
    "Zamba 2": Architecture(
        "Zamba2Config",
        {"layer_types": ["mamba", "hybrid"], "num_mem_blocks": 1, "hybrid_layer_ids": [1], "mamba_headdim": 8}
        | {"n_mamba_heads": 8, "mamba_d_state": 8, "mamba_ngroups": 1, "adapter_rank": 4, "num_key_value_heads": 4}
        | {"chunk_size": 4, "attention_hidden_size": 64, "attention_head_dim": 16, "use_mem_rope": True}
        | {"time_step_min": 1e-9},  # transformers limits time steps in the forward pass, and not in decoding
    ),
    "Nemotron-H": Architecture(
        "NemotronHConfig",
        EXPERTS
        | ROUTED
        | {"layers_block_type": ["mamba", "attention"], "n_groups": 1, "mamba_num_heads": 8, "mamba_head_dim": 8}
        | {"ssm_state_size": 8, "chunk_size": 4, "moe_shared_expert_intermediate_size": 16}
        | {"time_step_min": 1e-9, "time_step_limit": (1e-9, 1e9), "time_step_floor": 1e-9},
    ),
    "MiniMax-M2": Architecture("MiniMaxM2Config", EXPERTS),
    "MiniMax": Architecture("MiniMaxConfig", EXPERTS | LINEAR | {"block_size": 4}, refused="cannot sample MiniMaxFor"),
    "RWKV": Architecture("RwkvConfig", {"attention_hidden_size": 32}, refused="cannot sample RwkvForCausalLM"),
    "RecurrentGemma": Architecture(
        "RecurrentGemmaConfig",
        {
            "lru_width": 32,
            "attention_window_size": 5,
            "block_types": ["recurrent", "attention"],
            "logits_soft_cap": 2.0,
        },
        refused="cannot sample RecurrentGemma",
    ),
}
NAMES = list(ARCHITECTURES)
# Older releases, such as those that vLLM needs, lack the newest.
ARCHITECTURES = {name: each for name, each in ARCHITECTURES.items() if hasattr(transformers, each.config)}


def tiny_model(architecture: Architecture, **changed: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    config = getattr(transformers, architecture.config)(**{**SHAPE, **architecture.sizes, **changed})
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
    return model


def saved(architecture: Architecture, folder: Path) -> Path:
    """The folder of a tiny model with the tokenizer of the embedded policy."""
    tiny_model(architecture).save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder
