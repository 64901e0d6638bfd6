"""The part `sharding`: FSDP2 over all GPUs against one process, and weights that go from shards into engines."""

from typing import Any

from benchmarks.gpu_check.findings import Findings
from benchmarks.gpu_check.launch import call
from benchmarks.gpu_check.settings import Settings
from benchmarks.gpu_check.short_run import SHORT_RUN

TOLERANCES = {"32-true": 1e-4, "bf16-mixed": 2e-2}
"""Relative tolerance of loss and gradient norm, by precision."""

ENGINE_TOLERANCE = 0.05
"""Largest mean difference per token between the log-probabilities of the engine, which computes in float32, and the
trainer, which computes in bfloat16."""


def check(settings: Settings, findings: Findings) -> None:
    if settings.devices == 1:
        findings.skip("several GPUs", "there is one GPU: its policy is sharded over one process")
    for precision in ("32-true",) if settings.cpu else TOLERANCES:  # each run of a rehearsal takes seconds to start
        runs = {}
        for name, devices, sharded in (("one", 1, False), ("all", settings.devices, True)):
            run_dir = str(settings.out / "parts" / "sharding" / f"{precision}-{name}")
            run = {"run_dir": run_dir, "cpu": settings.cpu, "devices": devices, "sharded": sharded}
            runs[name] = call(SHORT_RUN, {**run, "precision": precision, "engine": None, "iterations": 1})
        judge(runs["one"], runs["all"], precision, findings)
    run_dir = str(settings.out / "parts" / "sharding" / "engine")
    run = {"run_dir": run_dir, "cpu": settings.cpu, "devices": settings.devices, "sharded": True}
    run |= {"precision": "bf16-mixed", "engine": settings.engine, "learning_rate": 1e-2}
    for number, difference in enumerate(call(SHORT_RUN, run)["engine_differences"], start=1):
        label = f"bf16-mixed, {settings.engine}, iteration {number}: difference per token of engine and trainer"
        findings.at_most(label, difference, ENGINE_TOLERANCE)


def judge(one: dict[str, Any], sharded: dict[str, Any], precision: str, findings: Findings) -> None:
    """Compares the updates of one process with those of the sharded run."""
    for number, (left, right) in enumerate(zip(one["updates"], sharded["updates"], strict=True), start=1):
        for name in left:
            difference = abs(left[name] - right[name]) / abs(left[name])
            label = f"{precision}, update {number}: {name}, relative difference"
            findings.at_most(label, difference, TOLERANCES[precision])
