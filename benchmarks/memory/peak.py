"""Peak memory of a piece of work."""

import ctypes
import gc
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
LONG = 15.0
"""Seconds after which work is not repeated any more."""


@dataclass(frozen=True)
class Cost:
    """Cost of a piece of work.

    Attributes:
        bytes: Largest memory during the work, beyond the memory before it.
        seconds: Shortest time of several repetitions.
    """

    bytes: int
    seconds: float


def cost_of(work: Callable[[], object], device: torch.device, repeats: int) -> Cost:
    """Memory of the first call of `work`, and time of the calls after it.

    Args:
        work: Function to measure. It must free what it allocates, except what it returns.
        device: Device that the memory is measured on.
        repeats: Largest number of calls that are timed. What takes long is called less often, at least once in all.
    """
    start = time.perf_counter()
    peak = (_peak_on_gpu if device.type == "cuda" else _peak_on_cpu)(work)
    first = time.perf_counter() - start
    seconds: list[float] = []
    while len(seconds) < repeats and first + sum(seconds) < LONG:
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return Cost(peak, min(seconds, default=first))


def _peak_on_gpu(work: Callable[[], object]) -> int:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    return torch.cuda.max_memory_allocated() - before


def _peak_on_cpu(work: Callable[[], object]) -> int:
    """Growth of the peak of resident memory.

    It is the kernel's own high-water mark, which can be reset. `getrusage`'s `ru_maxrss` cannot, and a process inherits
    that of the process that started it.
    """
    if not (STATUS.exists() and RESET.exists()):
        raise OSError("peak memory on a CPU is read from /proc/self/status, which this system does not have")
    gc.collect()
    _return_freed_memory()
    RESET.write_text("5")  # sets the high-water mark to what is resident now
    before = _resident("VmHWM")
    work()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def _return_freed_memory() -> None:
    """Makes the C library return freed memory to the system; otherwise the work would reuse it without being seen."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
