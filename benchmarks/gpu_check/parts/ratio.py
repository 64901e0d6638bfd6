"""The part `ratio`: without a step between them, pi_theta and pi_old are the same to the bit, in each precision.

The first update of an iteration takes pi_old from its own passes; for later updates, a pass without a gradient takes it
before. At a learning rate of 0, each update must therefore find a ratio of exactly 1. If the two kinds of passes ran
different kernels, scores and KL would begin with their difference.
"""

from typing import Any, get_args

from benchmarks.gpu_check.findings import Findings
from benchmarks.gpu_check.launch import call
from benchmarks.gpu_check.settings import Settings
from benchmarks.gpu_check.short_run import SHORT_RUN, short_run
from rence_lightning.errors import one_line
from rence_lightning.training.precision import Precision


def check(settings: Settings, findings: Findings) -> None:
    folder = str(settings.out / "parts" / "ratio")
    found = call("benchmarks.gpu_check.parts.ratio:runs", {"folder": folder, "cpu": settings.cpu})
    for precision, each in found["still"].items():
        if "error" in each:
            findings.expect(False, f"{precision}: {each['error']}")
        else:
            judge(each, precision, findings)
    sharded = {"run_dir": f"{folder}/sharded", "cpu": settings.cpu, "devices": settings.devices, "sharded": True}
    sharded |= {"precision": "bf16-mixed", "engine": settings.engine, "learning_rate": 0.0, "iterations": 1}
    judge(call(SHORT_RUN, sharded), "bf16-mixed", findings, ", sharded")
    moved = found["moving"]["log_ratios"][1]
    findings.note("32-true, after a step: largest log-ratio of a token", moved)
    findings.expect(moved > 0, "the ratio stays 1 after a step, so that this part could not fail")


def runs(folder: str, cpu: bool) -> dict[str, Any]:
    """Runs at a learning rate of 0 in each precision (`still`), and one with steps (`moving`)."""

    def run(precision: str, learning_rate: float) -> dict[str, Any]:
        found = short_run(
            run_dir=f"{folder}/{precision}-{learning_rate}",
            cpu=cpu,
            devices=1,
            sharded=False,
            precision=precision,
            engine="transformers",
            learning_rate=learning_rate,
            iterations=1,
        )
        assert found is not None  # there is one rank
        return found

    still: dict[str, Any] = {}
    for precision in get_args(Precision):
        try:
            still[precision] = run(precision, 0.0)
        except Exception as error:  # the other precisions are still worth trying
            still[precision] = {"error": one_line(error)}
    return {"still": still, "moving": run("32-true", 1e-3)}


def judge(still: dict[str, Any], precision: str, findings: Findings, how: str = "") -> None:
    """Judges a run at a learning rate of 0; `how` is added to the names of its figures."""
    if still["precision"] != precision:
        findings.skip(precision, f"Lightning computes in {still['precision']} on this device")
        return
    for number, largest in enumerate(still["log_ratios"], start=1):
        findings.equal(f"{precision}{how}, update {number}: largest log-ratio of a token", largest, 0.0)
