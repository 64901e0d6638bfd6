"""Evaluation: benchmarks, their figures over repeated sampling, and how they are reported."""

from rence_lightning.evaluation.benchmarks import BENCHMARKS, Benchmark, BenchmarkFile, load_benchmark
from rence_lightning.evaluation.comparison import (
    Difference,
    compare,
    compare_paths,
    comparison_table,
    settings_that_differ,
)
from rence_lightning.evaluation.metrics import BenchmarkMetrics, macro_average
from rence_lightning.evaluation.record import (
    append_evaluation,
    evaluation_table,
    forget_evaluations_after,
    read_evaluations,
)
from rence_lightning.evaluation.samples import Description, EvaluatedProblem, Sample, SampleFolder, find_samples

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "BenchmarkFile",
    "BenchmarkMetrics",
    "Description",
    "Difference",
    "EvaluatedProblem",
    "Sample",
    "SampleFolder",
    "append_evaluation",
    "compare",
    "compare_paths",
    "comparison_table",
    "evaluation_table",
    "find_samples",
    "forget_evaluations_after",
    "load_benchmark",
    "macro_average",
    "read_evaluations",
    "settings_that_differ",
]
