"""Runs one part in a process of its own, so that a crash, a hang or an exhausted memory fails that part alone."""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from benchmarks.gpu_check import processes
from benchmarks.gpu_check.launch import ROOT, ended
from benchmarks.gpu_check.parts import Part
from benchmarks.gpu_check.settings import Settings

Verdict = Literal["pass", "FAIL", "skipped"]

TAIL_LINES = 60
"""Number of lines of a part's output that the report keeps if the part fails."""

GRACE_SECONDS = 10.0
"""Time for the processes of a part to end after it, before they are killed."""

OUT_OF_MEMORY = (
    "the GPU is out of memory; use more GPUs, a smaller --shape, fewer --packed_tokens or --cpu_offload true "
    "(docs/scaling.md explains how much memory is needed)"
)


@dataclass(frozen=True)
class Outcome:
    """The outcome of a part, as it is kept for the report and for the next start.

    Attributes:
        name: Name of the part.
        verdict: `pass`, `FAIL` or `skipped`.
        reasons: What failed, or why the part was skipped.
        figures: Figures by name.
        skipped: Reasons, by the name of what could not be checked.
        seconds: Time that the part took.
        tail: Last lines of the output of a part that failed.
        fingerprint: What the outcome depends on, by name: versions, sources, devices, arguments.
    """

    name: str
    verdict: Verdict
    reasons: list[str]
    figures: dict[str, Any]
    skipped: dict[str, str]
    seconds: float
    tail: str
    fingerprint: dict[str, Any] = field(default_factory=dict)

    def save(self, out: Path) -> None:
        """Writes the outcome into the directory of the check."""
        (out / "parts" / self.name / "outcome.json").write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")


def saved(out: Path, name: str) -> Outcome | None:
    """The outcome of a part in an earlier start, None if there is none that can be read."""
    try:
        return Outcome(**json.loads((out / "parts" / name / "outcome.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def run_part(part: Part, settings: Settings, limit: float, fingerprint: dict[str, Any]) -> Outcome:
    """Runs a part, ends all of its processes, and judges it.

    Args:
        part: The part.
        settings: Settings of the check.
        limit: Time limit in seconds.
        fingerprint: What the outcome depends on.
    """
    folder = settings.out.absolute() / "parts" / part.name
    folder.mkdir(parents=True, exist_ok=True)
    found, output, mark = folder / "findings.json", folder / "output.txt", uuid4().hex
    found.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.gpu_check.part", part.function, settings.to_json(), str(found)]
    start = time.monotonic()
    with output.open("wb") as file:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={"VLLM_LOGGING_LEVEL": "INFO", **os.environ, "PYTHONUNBUFFERED": "1", processes.MARK: mark},
        )
        try:
            code: int | None = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:  # also where the check is interrupted
            seconds = time.monotonic() - start
            if process.returncode is None:
                process.kill()
                process.wait()
            else:
                processes.wait_until_gone(f"{processes.MARK}={mark}", process.pid, GRACE_SECONDS)
            left = processes.end(f"{processes.MARK}={mark}", process.pid)
    lines = output.read_text(encoding="utf-8", errors="replace").splitlines()
    findings = json.loads(found.read_text(encoding="utf-8")) if found.exists() else {}
    reasons = _reasons(findings, code, limit, lines)
    if code == 0 and left:
        reasons.append(f"{left} of its processes were still running {GRACE_SECONDS:.0f} s after it had ended")
    why_skipped = findings.get("skipped_whole", "")
    verdict: Verdict = "FAIL" if reasons else "skipped" if why_skipped else "pass"
    return Outcome(
        name=part.name,
        verdict=verdict,
        reasons=reasons or ([why_skipped] if why_skipped else []),
        figures=findings.get("figures", {}),
        skipped=findings.get("skipped", {}),
        seconds=round(seconds, 1),
        tail="\n".join(lines[-TAIL_LINES:]) if reasons else "",
        fingerprint=fingerprint,
    )


def _reasons(findings: dict[str, Any], code: int | None, limit: float, lines: list[str]) -> list[str]:
    """Why a part failed; empty if it did not."""
    reasons = list(findings.get("failures", []))
    if code is None:
        reasons.append(f"it did not end within its limit of {limit:.0f} s (--time_factor raises the limits)")
    elif code or not findings.get("finished"):
        if any("OutOfMemoryError" in line or "CUDA out of memory" in line for line in lines):
            reasons.append(OUT_OF_MEMORY)
        elif not reasons:
            reasons.append(f"its process {ended(code)} before it was done")
    return reasons
