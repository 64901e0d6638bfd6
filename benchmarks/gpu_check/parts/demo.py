"""The part `demo`: the demo's policy learns, sharded over all devices and in bfloat16, with each installed engine."""

import json
import sys
import time
from pathlib import Path

from benchmarks.gpu_check.findings import Failed, Findings
from benchmarks.gpu_check.launch import ended, run
from benchmarks.gpu_check.settings import Engine, Settings

RISE = 0.2
"""Smallest rise of the accuracy."""


def check(settings: Settings, findings: Findings) -> None:
    engines: list[Engine] = ["vllm"] if settings.vllm else []
    if not settings.vllm:
        findings.skip("vLLM", "it is not installed")
    if not (settings.cpu and settings.vllm):
        engines.append("transformers")
    for engine in engines:
        start = time.perf_counter()
        averages = fit(settings, engine)
        findings.note(f"{engine}: seconds", round(time.perf_counter() - start, 1))
        judge(averages, engine, findings)


def judge(averages: list[float], engine: str, findings: Findings) -> None:
    """Judges the accuracies before and after training."""
    findings.note(f"{engine}: accuracy", f"{averages[0]:.1%} -> {averages[-1]:.1%}")
    findings.expect(
        averages[-1] >= averages[0] + RISE, f"{engine}: the accuracy rose by less than {100 * RISE:.0f} points"
    )


def fit(settings: Settings, engine: Engine) -> list[float]:
    """Trains; returns the accuracy of each evaluation."""
    run_dir = settings.out / "parts" / "demo" / f"{engine}-{time.time_ns()}"
    options = [
        f"--trainer.run_dir={run_dir}",
        f"--trainer.accelerator={settings.accelerator}",
        f"--trainer.devices={1 if settings.cpu else settings.devices}",  # several processes share the cores of a CPU
        "--trainer.strategy=rence_lightning.training.FullyShardStrategy",
        "--trainer.precision=bf16-mixed",
        f"--model.gradient_checkpointing={'false' if settings.cpu else 'true'}",
        "--old_policy.max_mismatch=0.05",
    ]
    if settings.cpu:
        options += ["--evaluation.limit=100", "--evaluation.repeats=1", "--trainer.max_iterations=12"]
        options += ["--evaluation.every=12", "--checkpoint.every=0"]
    if engine == "vllm":
        memory = "kv_cache_memory_bytes=268435456" if settings.cpu else "gpu_memory_utilization=0.2"
        options += ["--data.engine=rence_lightning.rollouts.VLLMEngine", "--data.engine.init_args.max_model_len=96"]
        options += [f"--data.engine.init_args.{memory}"]
    code = run([sys.executable, "-m", "rence_lightning", "fit", "--config=conf/arithmetic.yaml", *options])
    if code:
        raise Failed(f"{engine}: the demo {ended(code)}; its last output is below")
    return averages_of(run_dir)


def averages_of(run_dir: Path) -> list[float]:
    """The accuracy of each evaluation of a run."""
    return [json.loads(line)["average"] for line in (run_dir / "evaluations.jsonl").read_text().splitlines()]
