"""The part `runner`: vLLM's model runner V1 against V2, which is the default where Triton is installed."""

from typing import Any

from benchmarks.gpu_check.findings import Failed, Findings, Skipped
from benchmarks.gpu_check.launch import call
from benchmarks.gpu_check.parts.engine import NEAR_TIE, TOLERANCES, largest_gap, need_vllm
from benchmarks.gpu_check.settings import Settings
from rence_lightning.policy import load_policy

SWITCH = "VLLM_USE_V2_MODEL_RUNNER"
"""Environment variable of vLLM that chooses the runner."""


def check(settings: Settings, findings: Findings) -> None:
    need_vllm(settings)
    if settings.cpu:
        raise Skipped("vLLM's model runner V2 needs Triton, which its CPU build does not have")
    for dtype in ("bfloat16", "float16"):
        found = {}
        for version in ("0", "1"):
            arguments = {"cpu": settings.cpu, "dtype": dtype}
            try:
                found[version] = call("benchmarks.gpu_check.parts.engine:greedy_vllm", arguments, {SWITCH: version})
            except Failed as failure:
                findings.expect(False, f"{dtype}, {SWITCH}={version}: {failure}")
        if len(found) == 2:
            judge(found["0"], found["1"], dtype, findings)


def judge(first: dict[str, Any], second: dict[str, Any], dtype: str, findings: Findings) -> None:
    """Compares the greedy responses of the two runners."""
    findings.note(f"{dtype}: runners", f"{first['runner']}, {second['runner']}")
    findings.expect(first["runner"] != second["runner"], f"{SWITCH} made no difference: both ran {first['runner']}")
    policy = load_policy("embedded:arithmetic")
    pairs = list(zip(first["tokens"], second["tokens"], strict=True))
    findings.note(f"{dtype}: equal responses", f"{sum(a == b for a, b in pairs)} of {len(pairs)}")
    gap = largest_gap(policy, first["tokens"], second["tokens"])
    findings.at_most(f"{dtype}: tokens, largest gap at the first that differs", gap, NEAR_TIE)
    differences = [
        abs(left - right)
        for (a, b), x, y in zip(pairs, first["log_probs"], second["log_probs"], strict=True)
        if a == b
        for left, right in zip(x, y, strict=True)
    ]
    mean = sum(differences) / len(differences) if differences else float("nan")
    findings.at_most(f"{dtype}: log-probabilities, mean difference", mean, TOLERANCES[dtype])
