"""Parts of the check that go wrong in each way, for its tests."""

import os
import signal
import subprocess
import time
from pathlib import Path

from benchmarks.gpu_check.findings import Failed, Findings, Skipped
from benchmarks.gpu_check.settings import Settings


def passes(settings: Settings, findings: Findings) -> None:
    findings.note("answer", 42)
    with (settings.out / "starts").open("a") as file:
        file.write("x")


def misses(settings: Settings, findings: Findings) -> None:
    findings.at_most("difference", 0.5, 0.1)
    findings.note("later", 1)


def is_nan(settings: Settings, findings: Findings) -> None:
    findings.at_most("difference", float("nan"), 0.1)


def cannot(settings: Settings, findings: Findings) -> None:
    raise Failed("vLLM does not start")


def cannot_tell(settings: Settings, findings: Findings) -> None:
    raise Skipped("there is one GPU")


def raises(settings: Settings, findings: Findings) -> None:
    findings.note("before", 1)
    raise KeyError("colour")


def out_of_memory(settings: Settings, findings: Findings) -> None:
    print("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB")
    raise RuntimeError("rank 1 failed")


def crashes(settings: Settings, findings: Findings) -> None:
    findings.note("before", 1)
    os.kill(os.getpid(), signal.SIGSEGV)


def hangs(settings: Settings, findings: Findings) -> None:
    """With a child that has left its session, and does not end with it."""
    child = subprocess.Popen(["sleep", "300"], start_new_session=True)
    Path(settings.out, "child").write_text(str(child.pid))
    print("waiting for a collective", flush=True)
    time.sleep(300)
