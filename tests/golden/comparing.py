"""Comparison of a run with the golden run: to the bit where it was made, to a tolerance elsewhere."""

import json
import math
import os
import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from recording import Record

GOLDEN = Path(__file__).parent / "golden.json"
REWRITE = "python tests/golden/rewrite.py"

TOLERANCE = 1e-4
"""Largest relative difference of a figure on another machine, while the sampled tokens are the same. Measured with
another instruction set (ATEN_CPU_CAPABILITY=default, MKL_ENABLE_INSTRUCTIONS=AVX2), with two threads, and on a
processor of another make (AMD EPYC in place of Intel Xeon): 2.2e-7, with all tokens the same in ten iterations."""

SAME_TOKENS = 5
"""Iterations in which the sampled tokens must be the same everywhere. A token differs where a random number falls
between two sums that differ by a rounding; with 43,000 tokens and 2.2e-7, that is on one machine in a hundred."""

DRIFT = 0.1
"""Largest relative difference of the movement of the weights, and largest difference of a share, after a token
differed, from which on two runs are two samples of the same training."""


def environment() -> dict[str, str]:
    """What the last digits of a run depend on."""
    packages = ("torch", "transformers", "tokenizers", "numpy", "lightning")
    return {
        **{name: version(name) for name in packages},
        "python": ".".join(platform.python_version_tuple()[:2]),
        "machine": platform.machine(),
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "mkl": os.environ.get("MKL_ENABLE_INSTRUCTIONS", ""),
        "threads": "1",
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def read_golden() -> dict[str, Any]:
    """The golden file: `environment` and `run`."""
    golden: dict[str, Any] = json.loads(GOLDEN.read_text(encoding="utf-8"))
    return golden


def first_difference(golden: Record, found: Record, exact: bool) -> str:
    """The first figure that differs, in the order of the run, as text; empty if none does.

    Args:
        golden: Golden run. Of its iterations, those that `found` has are compared.
        found: Run to compare.
        exact: Whether every figure must be the same to the bit. Otherwise figures may differ by `TOLERANCE` while the
            sampled tokens are the same, which they must be in the first `SAME_TOKENS` iterations, and by `DRIFT`
            afterwards.
    """
    pairs = list(zip(golden["iterations"], found["iterations"], strict=False))
    same_tokens = True
    for expected, actual in pairs:
        where = f"iteration {expected['iteration']}"
        if exact or same_tokens:
            same_tokens = exact or expected["iteration"] <= SAME_TOKENS or expected["groups"] == actual["groups"]
        differences = _figures(expected, actual, exact, where) if same_tokens else _drift(expected, actual, where)
        if difference := next(differences, ""):
            return difference
    evaluations = [each["evaluations"] for each in (golden, found)]
    if len(found["iterations"]) == len(golden["iterations"]) and len(evaluations[0]) != len(evaluations[1]):
        return f"{len(evaluations[0])} evaluations in the golden run, {len(evaluations[1])} now"
    for expected, actual in zip(*evaluations, strict=False):
        where = f"evaluation after iteration {expected['iteration']}"
        if exact and (difference := next(_figures(expected, actual, exact, where), "")):
            return difference
        if not exact and abs(expected["arithmetic"]["avg"] - actual["arithmetic"]["avg"]) > DRIFT:
            return f"{where}, avg: {expected['arithmetic']['avg']} in the golden run, {actual['arithmetic']['avg']} now"
    return ""


def _figures(expected: Any, actual: Any, exact: bool, where: str) -> Iterator[str]:
    """The figures that differ, one line each."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        for key in expected.keys() | actual.keys():
            if key not in expected or key not in actual:
                yield f"{where}: {key} is only in the {'golden run' if key in expected else 'run of now'}"
        for key in expected:
            if key in actual and (exact or key != "digest"):
                yield from _figures(expected[key], actual[key], exact, f"{where}, {key}")
    elif isinstance(expected, list) and isinstance(actual, list):
        for number, (one, other) in enumerate(zip(expected, actual, strict=False), start=1):
            yield from _figures(one, other, exact, f"{where} {number}")
        if len(expected) != len(actual):
            yield f"{where}: {len(expected)} in the golden run, {len(actual)} now"
    elif not _same(expected, actual, exact):
        yield f"{where}: {expected} in the golden run, {actual} now"


def _same(expected: Any, actual: Any, exact: bool) -> bool:
    if exact or not (isinstance(expected, float) and isinstance(actual, float)):
        return bool(expected == actual)
    return math.isclose(expected, actual, rel_tol=TOLERANCE, abs_tol=TOLERANCE * 1e-2)


def _drift(expected: dict[str, Any], actual: dict[str, Any], where: str) -> Iterator[str]:
    one, other = expected["weights"]["movement"], actual["weights"]["movement"]
    if not math.isclose(one, other, rel_tol=DRIFT):
        yield f"{where}, weights, movement: {one} in the golden run, {other} now"
    for name in ("reward", "correct", "answered", "truncated"):
        one, other = expected["rollouts"][name], actual["rollouts"][name]
        if abs(one - other) > DRIFT:
            yield f"{where}, rollouts, {name}: {one} in the golden run, {other} now"
    updates = [each["updates"] for each in (expected, actual)]
    if len(updates[0]) != len(updates[1]):
        yield f"{where}, updates: {len(updates[0])} in the golden run, {len(updates[1])} now"
