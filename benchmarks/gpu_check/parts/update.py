"""The part `update`: updates of a policy of random weights in the project's trainer, timed, on all GPUs.

The engine returns random responses of the maximum length, so that only the update is measured. Each GPU has one packed
group per update: a prompt of at most 1,536 tokens, as in the paper, and 8 responses that fill the row.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from transformers import Qwen3Config

from benchmarks.gpu_check.callbacks import now
from benchmarks.gpu_check.environment import nvidia_smi
from benchmarks.gpu_check.findings import Failed, Findings
from benchmarks.gpu_check.flops import packed_flops, peak_flops
from benchmarks.gpu_check.launch import call
from benchmarks.gpu_check.settings import Settings, Shape
from benchmarks.gpu_check.shapes import RandomPolicyModule, shape_config
from benchmarks.gpu_check.stand_ins import EveryOther, LongestResponses, LongProblems
from rence_lightning.callbacks import Callback, OldPolicySnapshot
from rence_lightning.distributed import max_over_ranks
from rence_lightning.prompts import PromptTemplate
from rence_lightning.rollouts import Sampling
from rence_lightning.sampling import NoFilter
from rence_lightning.sampling.datamodule import RolloutDataModule
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.strategy import FullyShardStrategy
from rence_lightning.training.trainer import Trainer

GROUP_SIZE = 8
LONGEST_PROMPT = 1536


def check(settings: Settings, findings: Findings) -> None:
    config = shape_config(settings.shape)
    device = "CPU" if settings.cpu else next(iter(nvidia_smi("name")), "unknown GPU")
    peak = settings.peak_tflops * 1e12 if settings.peak_tflops is not None else peak_flops(device)
    if peak is None:
        findings.skip("share of the peak", f"flops.py does not list {device}; give --peak_tflops")
    findings.note("shape", settings.shape)
    for tokens in settings.packed_tokens:
        try:
            measured = call("benchmarks.gpu_check.parts.update:measure", arguments_of(settings, tokens))
        except Failed as failure:
            findings.expect(False, f"{tokens} packed tokens: {failure}")
            continue
        judge(measured, config, tokens, settings.devices, peak, findings)


def arguments_of(settings: Settings, tokens: int) -> dict[str, Any]:
    """The arguments of `measure` for rows of so many tokens."""
    return {
        "run_dir": str(settings.out / "parts" / "update" / str(tokens)),
        "cpu": settings.cpu,
        "shape": settings.shape,
        "devices": settings.devices,
        "packed_tokens": tokens,
        "cpu_offload": settings.cpu_offload,
    }


def lengths_of(packed_tokens: int) -> tuple[int, int]:
    """The lengths of the prompt and of each response of a group that fills a packed row."""
    prompt = min(LONGEST_PROMPT, packed_tokens // 8)
    return prompt, (packed_tokens - prompt) // GROUP_SIZE


def judge(
    measured: dict[str, Any], config: Qwen3Config, tokens: int, devices: int, peak: float | None, findings: Findings
) -> None:
    """Judges the last update, and computes its rates."""
    label, seconds = f"{tokens} packed tokens", measured["seconds"]
    prompt, response = lengths_of(tokens)
    computed = prompt + GROUP_SIZE * response
    flops = packed_flops(config, prompt, response, GROUP_SIZE)
    findings.note(f"{label}: parameters", measured["parameters"])
    findings.note(f"{label}: prompt and response, tokens", f"{prompt} and {GROUP_SIZE} x {response}")
    findings.note(f"{label}: seconds of an update", seconds)
    findings.note(f"{label}: tokens/s, all devices", devices * computed / seconds)
    findings.note(f"{label}: tokens/s, each device", computed / seconds)
    findings.note(f"{label}: TFLOP/s, each device", flops / seconds / 1e12)
    if peak is not None:
        share = flops / seconds / peak
        findings.note(f"{label}: share of the peak (MFU)", share)
        findings.expect(share < 1, f"{label}: {share:.2f} of the peak; the time or the peak is wrong")
    if measured["peak_memory"] is not None:
        findings.note(f"{label}: peak memory, GB", measured["peak_memory"] / 1e9)
    for name in ("loss", "grad_norm"):
        findings.note(f"{label}: {name}", measured[name])
        findings.expect(math.isfinite(measured[name]), f"{label}: {name} is {measured[name]}")


class Stopwatch(Callback):
    """Measures the seconds of each update, with the device synchronized before and after."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.figures: list[dict[str, float]] = []

    def on_train_batch_start(self, trainer: Trainer, module: PolicyModule, batch: Any, batch_idx: int) -> None:
        self._start = now()

    def on_train_batch_end(
        self, trainer: Trainer, module: PolicyModule, outputs: Mapping[str, Any], batch: Any, batch_idx: int
    ) -> None:
        self.seconds.append(now() - self._start)
        self.figures.append(dict(outputs))


def measure(
    run_dir: str, cpu: bool, shape: Shape, devices: int, packed_tokens: int, cpu_offload: bool
) -> dict[str, Any] | None:
    """Takes two updates, the first as a warm-up, and measures the second.

    Args:
        run_dir: Directory of the run.
        cpu: Whether it runs on the CPU.
        shape: Shape of the policy.
        devices: Number of GPUs, or of processes on a CPU.
        packed_tokens: Number of tokens of the packed row of each device.
        cpu_offload: Whether to keep weights and optimizer states in main memory, a setting of the strategy.

    Returns:
        Seconds, loss, gradient norm, number of parameters, and the largest peak of memory of a GPU in bytes (None on a
        CPU); None on ranks other than 0.
    """
    prompt, response = lengths_of(packed_tokens)
    module, stopwatch = RandomPolicyModule(shape), Stopwatch()
    data = RolloutDataModule(
        problems=[LongProblems(prompt, 2 * devices)],
        template=PromptTemplate("{problem}", chat=False),
        engine=LongestResponses(),
        reward=EveryOther(),
        filter=NoFilter(),
        sampling=Sampling(max_response_tokens=response),
        group_size=GROUP_SIZE,
        prompts_per_iteration=devices,
        prompts_per_update=devices,
        max_prompt_tokens=prompt,
    )
    memory: list[float] = []
    trainer = Trainer(
        max_iterations=2,
        run_dir=run_dir,
        accelerator="cpu" if cpu else "gpu",
        devices=devices,
        strategy=FullyShardStrategy(cpu_offload=cpu_offload),
        precision="bf16-mixed",
        micro_batch_tokens=packed_tokens,
        callbacks=[OldPolicySnapshot(), stopwatch, Peak(memory)],
    )
    trainer.fit(module, data)
    if not trainer.is_global_zero:
        return None
    return {
        "seconds": stopwatch.seconds[-1],
        "loss": stopwatch.figures[-1]["loss"],
        "grad_norm": stopwatch.figures[-1]["grad_norm"],
        "parameters": sum(parameter.numel() for parameter in module.policy.parameters()),
        "peak_memory": None if cpu else memory[-1],
    }


class Peak(Callback):
    """Notes the largest peak of memory of any GPU in each update, in bytes.

    Args:
        peaks: List to which the peaks are added.
    """

    def __init__(self, peaks: list[float]) -> None:
        self.peaks = peaks

    def on_train_batch_start(self, trainer: Trainer, module: PolicyModule, batch: Any, batch_idx: int) -> None:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def on_train_batch_end(
        self, trainer: Trainer, module: PolicyModule, outputs: Mapping[str, Any], batch: Any, batch_idx: int
    ) -> None:
        peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        self.peaks.append(max_over_ranks(float(peak)))
