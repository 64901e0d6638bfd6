"""Evaluation: benchmarks, samples of a policy on them, and figures computed from these samples (in `figures`)."""

from rence_lightning.evaluation.benchmarks import BENCHMARKS, BenchmarkFile, load_benchmark
from rence_lightning.evaluation.comparison import Difference, compare, comparison
from rence_lightning.evaluation.record import (
    Evaluation,
    append_evaluation,
    evaluation_table,
    forget_evaluations_after,
    macro_average,
    read_evaluations,
)
from rence_lightning.evaluation.samples import (
    Description,
    EvaluatedProblem,
    Sample,
    SampleFolder,
    evaluated_problem,
    find_samples,
    iteration_of,
)

__all__ = [
    "BENCHMARKS",
    "BenchmarkFile",
    "Description",
    "Difference",
    "EvaluatedProblem",
    "Evaluation",
    "Sample",
    "SampleFolder",
    "append_evaluation",
    "compare",
    "comparison",
    "evaluated_problem",
    "evaluation_table",
    "find_samples",
    "forget_evaluations_after",
    "iteration_of",
    "load_benchmark",
    "macro_average",
    "read_evaluations",
]
