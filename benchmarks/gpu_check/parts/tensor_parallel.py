"""The part `tensor_parallel`: an engine that two GPUs share, against an engine on each of them.

The process group is the trainer's own, bound to its device, and vLLM builds its groups inside of it.
"""

from typing import Any

from benchmarks.gpu_check.findings import Findings, Skipped
from benchmarks.gpu_check.launch import call
from benchmarks.gpu_check.parts.engine import NEAR_TIE, TOLERANCES, largest_gap, need_vllm
from benchmarks.gpu_check.settings import Settings
from benchmarks.gpu_check.short_run import SHORT_RUN
from rence_lightning.policy import load_policy


def check(settings: Settings, findings: Findings) -> None:
    need_vllm(settings)
    if settings.devices < 2:
        raise Skipped("there is one GPU")
    dtype = "float32" if settings.cpu else "bfloat16"
    found = []
    for size in (1, 2):
        run_dir = str(settings.out / "parts" / "tensor_parallel" / f"tp{size}")
        run = {"run_dir": run_dir, "cpu": settings.cpu, "devices": 2, "sharded": True, "iterations": 2}
        run |= {"precision": "32-true" if settings.cpu else "bf16-mixed", "engine": "vllm", "learning_rate": 1e-5}
        found.append(call(SHORT_RUN, {**run, "engine_settings": {"dtype": dtype, "tensor_parallel_size": size}}))
    judge(found[0], found[1], dtype, findings)


def judge(alone: dict[str, Any], shared: dict[str, Any], dtype: str, findings: Findings) -> None:
    """Compares the runs with an engine on each GPU, and with one on both."""
    for name, found in (("an engine on each", alone), ("an engine on both", shared)):
        for number, difference in enumerate(found["engine_differences"], start=1):
            label = f"{name}, iteration {number}: difference per token of engine and trainer"
            findings.at_most(label, difference, TOLERANCES[dtype])
    pairs = list(zip(alone["greedy"], shared["greedy"], strict=True))
    findings.note("greedy responses that are equal", f"{sum(a == b for a, b in pairs)} of {len(pairs)}")
    gap = largest_gap(load_policy("embedded:arithmetic"), alone["greedy"], shared["greedy"])
    findings.at_most("greedy tokens, largest gap at the first that differs", gap, NEAR_TIE)
