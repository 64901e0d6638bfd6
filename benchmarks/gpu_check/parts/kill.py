"""The part `kill`: a rank that is killed takes all processes of its run along, and the GPU memory is free again."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import yaml

from benchmarks.gpu_check import processes
from benchmarks.gpu_check.environment import nvidia_smi
from benchmarks.gpu_check.findings import Findings, Skipped
from benchmarks.gpu_check.launch import ROOT
from benchmarks.gpu_check.settings import Settings

SECONDS = 60.0
"""Time for all processes of a run to end after one of its ranks was killed."""

START_SECONDS = 240.0
"""Time for a run to come to the moment at which a rank is killed."""

FREE_BYTES = 300 * 2**20
"""Largest amount of GPU memory that may be in use in addition after the run."""

MARK = "RENCE_GPU_CHECK_RUN"
"""Environment variable by which the processes of a run are known."""


def check(settings: Settings, findings: Findings) -> None:
    if not processes.can_list():
        raise Skipped("this system does not list its processes in /proc")
    ranks = (0, 1) if settings.devices > 1 else (0,)
    if ranks == (0,):
        findings.skip("rank 1", "there is one GPU")
    cases = [(rank, place) for place in ("sampling", "update") for rank in ranks]
    if settings.cpu:
        cases = [(0, "update"), (1, "sampling")]
        findings.skip("rank 1 in an update, rank 0 while sampling", "each run of a rehearsal takes seconds to start")
    for rank, place in cases:
        kill_one(settings, rank, place, findings)


def kill_one(settings: Settings, rank: int, place: str, findings: Findings) -> None:
    """A run of which one rank is killed."""
    label, mark = f"rank {rank}, {place}", uuid4().hex
    folder = settings.out / "parts" / "kill" / f"{place}-{rank}"
    folder.mkdir(parents=True, exist_ok=True)
    killed = folder / "killed.json"
    killed.unlink(missing_ok=True)
    overlay = folder / "overlay.yaml"
    overlay.write_text(yaml.safe_dump(overlay_of(settings, rank, place, folder, killed)))
    before = used_memory()
    command = [sys.executable, "-m", "rence_lightning", "fit", "--config=conf/arithmetic.yaml", f"--config={overlay}"]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, MARK: mark}, start_new_session=True)
    try:
        judge(process, killed, f"{MARK}={mark}", label, findings)
        if not settings.cpu:
            judge_memory(before, label, findings)
    finally:
        processes.end(f"{MARK}={mark}", process.pid)
        process.wait()


def overlay_of(settings: Settings, rank: int, place: str, folder: Path, killed: Path) -> dict[str, object]:
    """The settings in which the run differs from the demo."""
    data: dict[str, object] = {"prompts_per_iteration": 8, "prompts_per_update": 4}
    if settings.vllm:
        memory = {"kv_cache_memory_bytes": 2**26} if settings.cpu else {"gpu_memory_utilization": 0.2}
        engine = {"max_model_len": 96, "max_num_seqs": 64, **memory}
        data["engine"] = {"class_path": "rence_lightning.rollouts.VLLMEngine", "init_args": engine}
    callback = {"rank": rank, "place": place, "file": str(killed)}
    return {
        "trainer": {
            "accelerator": settings.accelerator,
            "devices": settings.devices,
            "strategy": {"class_path": "rence_lightning.training.FullyShardStrategy"},
            "run_dir": str(folder / "run"),
            "max_iterations": 3,
            "callbacks": [{"class_path": "benchmarks.gpu_check.callbacks.KilledRank", "init_args": callback}],
        },
        "data": data,
        "evaluation": {"every": 0},
        "checkpoint": {"every": 0},
        "export": {"enabled": False},
    }


def judge(process: "subprocess.Popen[bytes]", killed: Path, mark: str, label: str, findings: Findings) -> None:
    """Waits until the run's rank was killed and its processes have ended."""
    start = time.monotonic()
    while not killed.exists() and process.poll() is None and time.monotonic() - start < START_SECONDS:
        time.sleep(0.1)
    if not killed.exists():
        code = process.poll()
        how = f"went on for {START_SECONDS:.0f} s" if code is None else f"ended with exit code {code}"
        findings.expect(False, f"{label}: the run {how} without coming to the kill")
        return
    time.sleep(0.2)  # the file is written just before
    at = json.loads(killed.read_text())["time"]
    _, left = processes.wait_until_gone(mark, process.pid, SECONDS - (time.time() - at))
    findings.note(f"{label}: seconds until all processes had ended", round(time.time() - at, 1))
    findings.expect(not left, f"{label}: {len(left)} processes were still running after {SECONDS:.0f} s")
    if not left:
        findings.expect(process.wait() != 0, f"{label}: the run ended with exit code 0 in spite of the kill")


def used_memory() -> list[int]:
    """Memory in use of each GPU, in bytes; empty without one."""
    return [int(value) * 2**20 for value in nvidia_smi("memory.used")]


def judge_memory(before: list[int], label: str, findings: Findings) -> None:
    """Compares the memory in use with that before the run; the driver takes some seconds to free it."""
    deadline = time.monotonic() + 20
    while True:
        more = max((after - earlier for after, earlier in zip(used_memory(), before, strict=True)), default=0)
        if more <= FREE_BYTES or time.monotonic() > deadline:
            break
        time.sleep(1)
    findings.at_most(f"{label}: GPU memory still in use, MB", more / 1e6, FREE_BYTES / 1e6)
