"""The memory of a run: the formulas against real updates, against tracked allocations, and by hand."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    Gemma3nTextConfig,
    Gemma4TextConfig,
    MambaConfig,
    PretrainedConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from benchmarks.qwen3 import qwen3
from rence_lightning.cli.commands.memory import Memory, read_shape, total
from rence_lightning.policy import PackedRow, Policy, Segment
from rence_lightning.policy.load import activation_checkpointing

FULLY_SHARD = "rence_lightning.training.FullyShardStrategy"
LORA = {"model.lora": {"r": 32}, "model.dtype": "bfloat16"}


def memory(policy: Path, config: Qwen3Config, options: dict[str, Any], **trainer: Any) -> Memory:
    """A run at the paper's lengths, with a vLLM engine in bfloat16; `trainer` has settings of its section."""
    config.save_pretrained(policy)
    sections: dict[str, Any] = {
        "trainer": {"accelerator": "gpu", "devices": 1, "num_nodes": 1, "strategy": "auto", "precision": "bf16-mixed"},
        "model": {"policy": str(policy), "dtype": "float32", "lora": None, "reference": None},
        "data": {"group_size": 8, "prompts_per_update": 512, "max_prompt_tokens": 1536},
    }
    sections["trainer"] |= trainer
    sections["model"]["gradient_checkpointing"] = True
    sections["data"]["sampling"] = {"max_response_tokens": 6656}
    engine = {"dtype": "bfloat16", "gpu_memory_utilization": 0.6, "max_num_seqs": 256}
    sections["data"]["engine"] = {"class_path": "rence_lightning.rollouts.VLLMEngine", "init_args": engine}
    return changed(Memory(sections, 80e9), options)


def changed(planned: Memory, options: dict[str, Any]) -> Memory:
    """The memory with other values of some settings, given by dotted key."""
    sections = deepcopy(dict(planned.config))
    for name, value in options.items():
        *path, key = name.split(".")
        section = sections
        for step in path:  # settings in place of a part that is null or only a name
            section[step] = section = section[step] if isinstance(section.get(step), dict) else {}
        section[key] = value
    return Memory(sections, 80e9)


def sharded(**arguments: Any) -> dict[str, Any]:
    return {"trainer.strategy": {"class_path": FULLY_SHARD, "init_args": arguments}}


@pytest.mark.parametrize(
    ("size", "devices", "tokens", "options", "gigabytes"),
    [
        ("4B", 8, 57344, sharded(), 33.06),
        ("4B", 8, 8192, {**sharded(), "model.gradient_checkpointing": False}, 62.86),
        ("4B", 8, 57344, sharded(cpu_offload=True), 25.40),
        ("4B", 8, 57344, {**sharded(), "model.reference": {}}, 35.85),
        ("4B", 1, 22528, {}, 81.68),
        ("4B", 1, 57344, LORA, 34.49),
        ("4B", 1, 8192, {**LORA, "model.gradient_checkpointing": False}, 62.42),
        ("1.7B", 2, 22528, {}, 44.80),
        ("14B", 8, 32768, sharded(), 62.56),
        ("0.6B", 1, 8192, {"trainer.precision": "32-true", "model.gradient_checkpointing": False}, 38.78),
    ],
)
def test_a_peak_is_the_one_that_torch_tracks(
    size: str, devices: int, tokens: int, options: dict[str, Any], gigabytes: float, tmp_path: Path
) -> None:
    """The peaks that torch's `MemTracker` and `FSDPMemTracker` found for the project's own update on fake devices, with
    attention as FlexAttention's kernel allocates it (by `rence_lightning.planning` of commit 3164e51)."""
    planned = memory(tmp_path, qwen3(size), options, devices=devices, micro_batch_tokens=tokens)
    assert total(planned.training()) / 1e9 == pytest.approx(gigabytes, rel=0.08)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_real_update_on_a_cpu_takes_what_is_planned(checkpointing: bool, tmp_path: Path) -> None:
    sizes = {"hidden_size": 128, "intermediate_size": 384, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = Qwen3Config(num_hidden_layers=4, head_dim=32, vocab_size=1024, tie_word_embeddings=True, **sizes)
    planned = memory(
        tmp_path,
        config,
        {"data.max_prompt_tokens": 120, "data.sampling.max_response_tokens": 150}
        | {"model.gradient_checkpointing": checkpointing},
        accelerator="cpu",
        precision="32-true",
        micro_batch_tokens=2640,
    )
    model = Qwen3ForCausalLM(config)
    if checkpointing:
        activation_checkpointing(model)
    policy = Policy(model, None)  # type: ignore[arg-type]  # no text is read
    row = PackedRow([Segment([0] * 120, [[0] * 150] * 8)] * 2, torch.device("cpu"))
    _ = row.blocks, row.order
    for parameter in policy.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        policy(row).log_probs.sum().backward()
    now = peak = 0
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]  # type: ignore[union-attr]
    for event in sorted(events, key=lambda each: each.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    assert planned.tokens == 2640
    activations = total(planned.training()) - sum(part.bytes for part in planned.states())
    assert activations == pytest.approx(peak, rel=0.15)


SMALL: dict[str, Any] = {"num_hidden_layers": 2, "vocab_size": 8, "hidden_size": 64, "pad_token_id": 0}
HEADS: dict[str, Any] = {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size_per_layer_input": 8,
    "head_dim": 16,
}
LAYERS: dict[str, Any] = {"layer_types": ["sliding_attention", "full_attention"], "num_kv_shared_layers": 0}


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        (Gemma3nTextConfig(**SMALL, **HEADS, **LAYERS, intermediate_size=[64, 96]), {"inner": 96, "queries": 64}),
        (Gemma4TextConfig(**SMALL, **HEADS, **LAYERS, global_head_dim=32), {"queries": 128, "keys": 64}),
        (MambaConfig(**SMALL), {"inner": 128, "queries": 64}),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_sizes_that_vary_between_layers_count_as_the_largest(
    config: PretrainedConfig, sizes: dict[str, int], tmp_path: Path
) -> None:
    config.save_pretrained(tmp_path)
    found = read_shape(str(tmp_path))._asdict()
    assert {name: found[name] for name in sizes} == sizes


def test_states_are_sixteen_bytes_a_parameter_over_the_shards(tmp_path: Path) -> None:
    planned = memory(tmp_path, qwen3("4B"), sharded(shard_size="node"), devices=4, num_nodes=2, micro_batch_tokens=1)
    assert [part.bytes for part in planned.states()] == [count * 4_022_468_096 / 4 for count in (4, 4, 8)]
    assert planned.tokens == 1536 + 6656  # a sequence cannot be cut
    assert changed(planned, {"trainer.micro_batch_tokens": 10**9}).tokens == 64 * (1536 + 8 * 6656)


def test_vllm_fills_its_share_of_the_gpu(tmp_path: Path) -> None:
    alone = memory(tmp_path, qwen3("4B"), {}, devices=2, micro_batch_tokens=57344)
    parts, sequences = alone.sampling()
    by_name = {part.name: part.bytes for part in parts}
    kept = 12 * 4_022_468_096
    assert total(alone.sampling()[0]) == pytest.approx(kept + 0.6 * 80e9, abs=147456)
    assert by_name["weights of the engine"] == 2 * 4_022_468_096
    token = 36 * 2 * 8 * 128 * 2  # layers, keys and values, heads, size of a head, bytes
    assert sequences == by_name["keys and values"] // token // 8192
    shared, more = changed(alone, {"data.engine.init_args.tensor_parallel_size": 2}).sampling()
    assert {part.name: part.bytes for part in shared}["weights of the engine"] == 4_022_468_096
    assert more > 2 * sequences


def test_the_transformers_engine_copies_a_sharded_policy_only(tmp_path: Path) -> None:
    engine = {"data.engine": {"class_path": "TransformersEngine", "init_args": {"max_num_seqs": 4}}}
    whole = memory(tmp_path, qwen3("0.6B"), engine, micro_batch_tokens=8192)
    copied = changed(whole, sharded())
    assert total(copied.sampling()[0]) - total(whole.sampling()[0]) == 4 * 596_049_920
    assert whole.sampling()[0][-1].bytes == 4 * 8192 * 28 * 2 * 8 * 128 * 4
