"""The memory of an update on fake devices, against real updates in torch's profiler, and against arithmetic."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from rence_lightning.planning import TrainingSetup, training_memory
from rence_lightning.planning.training_memory import DEPTHS
from rence_lightning.policy import LoRA, PackedRow, Policy
from rence_lightning.policy.load import activation_checkpointing
from rence_lightning.training.strategy import FullyShardStrategy

CPU = torch.device("cpu")


def shape(layers: int = 3, **settings: Any) -> Qwen3Config:
    sizes = {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "vocab_size": 1024,
    }
    return Qwen3Config(num_hidden_layers=layers, tie_word_embeddings=True, **{**sizes, **settings})


def setup(**settings: Any) -> TrainingSetup:
    given = {"config": shape(), "micro_batch_tokens": 1500, "prompt_tokens": 120, "response_tokens": 150}
    return TrainingSetup(**{**given, "gpu": False, **settings})


def measured(planned: TrainingSetup) -> int:
    """Peak memory of a real update, from the allocations that torch's profiler records."""
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(planned.config)
    if planned.gradient_checkpointing:
        activation_checkpointing(model)
    policy: Any = Policy(model, None)  # type: ignore[arg-type]
    row = PackedRow(planned.segments(), CPU)
    _ = row.blocks, row.order
    optimizer = torch.optim.AdamW(policy.parameters(), fused=True)
    for parameter in policy.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    held = 4 * 4 * sum(parameter.numel() for parameter in policy.parameters())
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        with torch.autocast("cpu", torch.bfloat16, enabled=planned.precision == "bf16-mixed"):
            loss = policy(row).log_probs.sum()
        loss.backward()
    now = peak = 0
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]  # type: ignore[union-attr]
    for event in sorted(events, key=lambda each: each.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return held + peak


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_a_fake_update_takes_the_memory_of_a_real_one(precision: Any, gradient_checkpointing: bool) -> None:
    planned = setup(precision=precision, gradient_checkpointing=gradient_checkpointing)
    assert training_memory(planned).peak == pytest.approx(measured(planned), rel=0.01)


@pytest.mark.parametrize("processes", [1, 8])
def test_full_training_holds_sixteen_bytes_a_parameter(processes: int) -> None:
    memory = training_memory(setup(devices=processes, strategy=FullyShardStrategy(), gpu=True))
    held = sum(memory.kinds[kind] for kind in ("parameters", "gradients", "optimizer states"))
    assert held == pytest.approx(16 * memory.parameters / processes, rel=0.002)  # shards are padded to equal sizes
    assert memory.kept == pytest.approx(12 * memory.parameters / processes, rel=0.002)


@pytest.mark.parametrize("processes", [1, 8])
def test_a_reference_policy_is_there_at_all_times(processes: int) -> None:
    sharded = {"strategy": FullyShardStrategy(), "devices": processes}
    untied = shape()
    untied.tie_word_embeddings = False
    plain, larger = (training_memory(setup(config=untied, **sharded, **each)) for each in ({}, {"reference": True}))
    copy = 4 * plain.parameters / processes
    embedding = 2 * 2 * shape().vocab_size * shape().hidden_size
    for before, after in ((plain.peak, larger.peak), (plain.kept, larger.kept)):
        assert after - before == pytest.approx(copy + embedding, rel=0.01)


def test_adapters_need_no_copy_for_a_reference_policy() -> None:
    adapted = setup(lora=LoRA(), dtype="bfloat16")
    assert training_memory(replace(adapted, reference=True)) == training_memory(adapted)


def test_offloaded_states_are_in_main_memory() -> None:
    memory = training_memory(setup(devices=2, strategy=FullyShardStrategy(cpu_offload=True), gpu=True))
    assert memory.main_memory == pytest.approx(16 * memory.parameters / 2, rel=0.002)
    assert memory.kept == 0 and not {"parameters", "gradients", "optimizer states"} & set(memory.kinds)


def test_adapters_leave_the_frozen_weights_without_gradients() -> None:
    memory = training_memory(setup(lora=LoRA(r=4), dtype="bfloat16", gpu=True))
    frozen = memory.parameters - memory.trained
    assert memory.kinds["parameters"] == pytest.approx(2 * frozen + 4 * memory.trained, rel=0.01)
    assert memory.kinds["gradients"] == pytest.approx(4 * memory.trained, rel=0.01)
    assert memory.kinds["optimizer states"] == pytest.approx(8 * memory.trained, rel=0.01)


def test_checkpointing_keeps_one_state_a_token_and_layer() -> None:
    one, two = (
        training_memory(setup(config=shape(layers), devices=2, strategy=FullyShardStrategy(), gpu=True))
        for layers in (3, 4)
    )
    states = 2 * 128 * one.tokens  # bfloat16
    assert two.kinds["activations"] - one.kinds["activations"] == pytest.approx(states, rel=0.01)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"devices": 8, "strategy": FullyShardStrategy()},
        {"devices": 8, "strategy": FullyShardStrategy(), "gradient_checkpointing": False},
        {"devices": 8, "num_nodes": 2, "strategy": FullyShardStrategy(shard_size="node", reduce_each_pass=False)},
        {"devices": 2, "strategy": FullyShardStrategy(cpu_offload=True)},
        {"lora": LoRA(), "dtype": "bfloat16"},
        {"precision": "32-true", "optimizer": torch.optim.AdamW},
    ],
    ids=["one GPU", "sharded", "no checkpointing", "hybrid", "offload", "adapters", "float32"],
)
def test_few_layers_stand_for_many_to_the_byte(settings: dict[str, Any]) -> None:
    planned = setup(**{"config": shape(max(DEPTHS) + 3), "gpu": True, **settings})
    assert training_memory(planned) == training_memory(planned, all_layers=True)


def test_a_pass_is_not_shorter_than_a_sequence_nor_longer_than_an_update() -> None:
    assert setup(micro_batch_tokens=10).tokens == 120 + 150
    long = setup(micro_batch_tokens=10**6, prompts_per_update=4, devices=2)
    assert long.tokens == 2 * (120 + 8 * 150) == sum(segment.tokens for segment in long.segments())
    assert sum(segment.tokens for segment in setup().segments()) == setup().tokens == 1500


def test_less_memory_is_used_the_more_processes_share_it() -> None:
    peaks = [training_memory(setup(devices=n, strategy=FullyShardStrategy(), gpu=True)).peak for n in (1, 2, 4)]
    assert peaks[0] > peaks[1] > peaks[2]


def test_a_second_process_group_is_refused() -> None:
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        with pytest.raises(RuntimeError, match="process of its own"):
            training_memory(replace(setup(), strategy=FullyShardStrategy()))
    finally:
        dist.destroy_process_group()
