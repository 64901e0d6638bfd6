"""Evaluation: benchmarks, their figures over repeated sampling, and how they are reported."""

from rence_lightning.evaluation.benchmarks import BENCHMARKS, Benchmark, load_benchmark
from rence_lightning.evaluation.metrics import BenchmarkMetrics, macro_average
from rence_lightning.evaluation.report import (
    append_evaluation,
    evaluation_table,
    forget_evaluations_after,
    read_evaluations,
)

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "BenchmarkMetrics",
    "append_evaluation",
    "evaluation_table",
    "forget_evaluations_after",
    "load_benchmark",
    "macro_average",
    "read_evaluations",
]
