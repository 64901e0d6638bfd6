"""The part `memory`: the peak of an update on the GPU against the plan's estimate on fake devices."""

from typing import Any

from benchmarks.gpu_check.findings import Findings
from benchmarks.gpu_check.launch import call
from benchmarks.gpu_check.parts.update import GROUP_SIZE, arguments_of, lengths_of
from benchmarks.gpu_check.settings import Settings, Shape
from benchmarks.gpu_check.shapes import shape_config
from rence_lightning.planning import TrainingSetup, training_memory
from rence_lightning.training.strategy import FullyShardStrategy

HERE = "benchmarks.gpu_check.parts.memory"

HIGHEST, LOWEST = 1.1, 0.7
"""Largest and smallest share of the estimate that the measured peak may be: a plan that promises too little memory ends
in an error, and one that asks for too much wastes it."""


def check(settings: Settings, findings: Findings) -> None:
    tokens = settings.packed_tokens[0]
    arguments = {
        "shape": settings.shape,
        "devices": settings.devices,
        "packed_tokens": tokens,
        "cpu_offload": settings.cpu_offload,
    }
    planned = call(f"{HERE}:estimate", arguments)
    findings.note(f"{settings.shape}, {tokens} packed tokens: estimated peak, GB", planned["peak"] / 1e9)
    for kind, size in planned["kinds"].items():
        findings.note(f"of which {kind}, GB", size / 1e9)
    if settings.cpu:
        findings.skip("measured peak", "a CPU does not count the memory of tensors")
        return
    measured = call("benchmarks.gpu_check.parts.update:measure", arguments_of(settings, tokens))
    judge(measured["peak_memory"], planned["peak"], findings)


def judge(measured: float, estimated: float, findings: Findings) -> None:
    """Compares the measured peak with the estimate, both in bytes."""
    findings.note("measured peak, GB", measured / 1e9)
    share = measured / estimated
    findings.note("measured / estimated", share)
    findings.expect(
        LOWEST <= share <= HIGHEST,
        f"the measured peak is {share:.2f} of the estimate; from {LOWEST} to {HIGHEST} was expected",
    )


def estimate(shape: Shape, devices: int, packed_tokens: int, cpu_offload: bool) -> dict[str, Any]:
    """The plan's peak of `update.measure` on a GPU, in bytes, and what it is made of."""
    prompt, response = lengths_of(packed_tokens)
    setup = TrainingSetup(
        config=shape_config(shape),
        micro_batch_tokens=packed_tokens,
        prompt_tokens=prompt,
        response_tokens=response,
        group_size=GROUP_SIZE,
        devices=devices,
        num_nodes=1,
        strategy=FullyShardStrategy(cpu_offload=cpu_offload),
        precision="bf16-mixed",
        dtype="float32",
        gradient_checkpointing=True,
        lora=None,
        gpu=True,
    )
    memory = training_memory(setup)
    return {"peak": memory.peak, "kinds": memory.kinds}
