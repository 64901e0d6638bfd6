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
"""Largest difference of an accuracy. After a token differed, two runs are two samples of the same training."""


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
            sampled tokens are the same, which they must be in the first `SAME_TOKENS` iterations, and accuracies by
            `DRIFT`.
    """
    for expected, actual in zip(golden["iterations"], found["iterations"], strict=False):
        late = expected["iteration"] > SAME_TOKENS
        if not exact and late and expected["groups"] != actual["groups"]:
            break  # two samples of the same training
        if difference := next(_figures(expected, actual, exact, f"iteration {expected['iteration']}"), ""):
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
