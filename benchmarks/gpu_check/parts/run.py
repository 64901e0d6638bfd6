"""The part `run`: three iterations of the paper's run, at reduced sizes, on a policy of random weights.

The configuration is conf/rence.yaml with the overlay for the number of GPUs. The policy cannot solve anything, so the
verdicts are fixed; and it hardly ever ends a response, so that all have the largest length.
"""

import json
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoTokenizer, Qwen3ForCausalLM

from benchmarks.gpu_check.findings import Failed, Findings
from benchmarks.gpu_check.launch import call, ended, run
from benchmarks.gpu_check.settings import Settings, Shape
from benchmarks.gpu_check.shapes import parameters, shape_config
from rence_lightning.policy.load import EMBEDDED

ITERATIONS = 3
PHASES = ("sync", "rollouts", "pi_old", "updates", "checkpoint")

CHECKPOINT_BYTES = 26
"""Bytes a parameter on the disk: the policy in bfloat16, and two checkpoints of weights and AdamW in float32."""


def check(settings: Settings, findings: Findings) -> None:
    folder = settings.out / "parts" / "run"
    shutil.rmtree(folder / "policy", ignore_errors=True)
    shutil.rmtree(folder / "run", ignore_errors=True)
    needed, free = CHECKPOINT_BYTES * parameters(settings.shape), shutil.disk_usage(folder).free
    checkpoints = needed < free
    if not checkpoints:
        findings.skip("checkpoints", f"they need {needed / 1e9:.0f} GB of disk, and {free / 1e9:.0f} GB are free")
    try:
        arguments = {"device": settings.device, "shape": settings.shape, "folder": str(folder / "policy")}
        call("benchmarks.gpu_check.parts.run:save_policy", arguments)
        overlay = folder / "overlay.yaml"
        overlay.write_text(yaml.safe_dump(overlay_of(settings, folder, checkpoints)))
        hardware = "cpu" if settings.cpu else "gpu1" if settings.devices == 1 else "gpu8"
        configs = [f"--config=conf/{name}" for name in ("rence.yaml", f"hardware/{hardware}.yaml")]
        findings.note("configuration", f"conf/rence.yaml, conf/hardware/{hardware}.yaml, {settings.shape}")
        code = run([sys.executable, "-m", "rence_lightning", "fit", *configs, f"--config={overlay}"])
        if code:
            raise Failed(f"the run {ended(code)}; its last output is below")
        judge(json.loads((folder / "phases.json").read_text()), findings)
    finally:
        shutil.rmtree(folder / "policy", ignore_errors=True)
        shutil.rmtree(folder / "run" / "checkpoints", ignore_errors=True)


def judge(iterations: list[dict[str, float]], findings: Findings) -> None:
    """Notes the seconds of the phases: of the first iteration, in which kernels are compiled, and of the others."""
    findings.equal("iterations", len(iterations), ITERATIONS)
    for phase in PHASES:
        seconds = [iteration.get(phase, float("nan")) for iteration in iterations]
        findings.note(f"{phase}, seconds in the first iteration", seconds[0])
        findings.note(f"{phase}, seconds in a later iteration", statistics.mean(seconds[1:]))
        findings.expect(all(each >= 0 for each in seconds), f"the phase {phase} is missing in an iteration")
    later = iterations[1:]
    rate = sum(each["tokens"] for each in later) / sum(each["rollouts"] for each in later)
    findings.note("sampled tokens/s, in later iterations", rate)


def save_policy(device: str, shape: Shape, folder: str) -> int:
    """Writes a policy of random weights in bfloat16, with the tokenizer of the embedded policy.

    Returns:
        Number of its parameters.
    """
    torch.manual_seed(0)
    with torch.device(device):
        model = Qwen3ForCausalLM(shape_config(shape))
    model.bfloat16().save_pretrained(folder)
    AutoTokenizer.from_pretrained(EMBEDDED / "arithmetic").save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def overlay_of(settings: Settings, folder: Path, checkpoints: bool) -> dict[str, Any]:
    """The settings in which the run differs from the paper's: sizes, policy, problems and verdicts."""
    prompt, response = (24, 24) if settings.cpu else (512, 2048)
    devices = settings.devices
    length = prompt + response
    if settings.vllm:
        engine: dict[str, Any] = {
            "class_path": "rence_lightning.rollouts.VLLMEngine",
            "init_args": {"dtype": "bfloat16", "max_model_len": length},
        }
        if settings.cpu:
            engine["init_args"] |= {"max_num_seqs": 64, "kv_cache_memory_bytes": 2**26}
    else:
        engine = {"class_path": "rence_lightning.rollouts.TransformersEngine"}
    stand_ins = "benchmarks.gpu_check.stand_ins"
    per_update = 2 * devices if settings.cpu else 4 * devices
    return {
        "trainer": {
            "max_iterations": ITERATIONS,
            "run_dir": str(folder / "run"),
            "devices": devices,
            "strategy": {"class_path": "rence_lightning.training.FullyShardStrategy"},
            "precision": "bf16-mixed",
            "micro_batch_tokens": prompt + 8 * response,
            "callbacks": [
                {
                    "class_path": "benchmarks.gpu_check.callbacks.PhaseTimes",
                    "init_args": {"file": str(folder / "phases.json")},
                }
            ],
        },
        "model": {"policy": str(folder / "policy")},
        "data": {
            "problems": [{"class_path": f"{stand_ins}.LongProblems", "init_args": {"tokens": prompt, "count": 1000}}],
            "template": {"text": "{problem}", "chat": False},
            "engine": engine,
            "reward": {"class_path": f"{stand_ins}.EveryOther"},
            "filter": {"class_path": "rence_lightning.sampling.NoFilter"},
            "prompts_per_iteration": 2 * per_update,
            "prompts_per_update": per_update,
            "max_prompt_tokens": prompt,
            "sampling": {"max_response_tokens": response},
        },
        "old_policy": {"max_mismatch": 0.05},
        "evaluation": {"every": 0, "benchmarks": None},
        "checkpoint": {"every": 1 if checkpoints else 0, "keep_last": 1},
        "export": {"enabled": False},
    }
