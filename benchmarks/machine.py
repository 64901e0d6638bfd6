"""The machine that a benchmark ran on: names, versions, and how fast it multiplies matrices."""

import importlib.metadata
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import torch

import rence_lightning


def describe(distributions: Sequence[str] = ("torch", "transformers", "lightning")) -> str:
    """Processor, cores, threads, system and versions, as one paragraph of Markdown."""
    versions = [f"{name} {found}" for name in distributions if (found := version(name)) is not None]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else processor()
    return (
        f"{device}, cores: {os.cpu_count()}, threads: {torch.get_num_threads()}, {platform.system()}; "
        f"Python {platform.python_version()}, {', '.join(versions)}, rence_lightning {rence_lightning.__version__}."
    )


def version(distribution: str) -> str | None:
    """Version of an installed distribution; None if it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """Model name of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def matrix_product_rate(size: int = 1536, seconds: float = 0.5) -> float:
    """Highest rate in FLOP/s of products of two square float32 matrices, over products that take `seconds` in all."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    best, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        start = time.perf_counter()
        torch.mm(left, right)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
