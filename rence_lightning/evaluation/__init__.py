"""Evaluation: benchmarks, samples of a policy on them, and figures computed from these samples."""

from typing import TYPE_CHECKING, Any

from rence_lightning.evaluation.benchmarks import BENCHMARKS, Benchmark, BenchmarkFile, load_benchmark
from rence_lightning.evaluation.comparison import (
    Difference,
    compare,
    compare_paths,
    comparison_table,
    settings_that_differ,
)
from rence_lightning.evaluation.record import (
    Evaluation,
    Results,
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
from rence_lightning.evaluation.votes import SameAnswers, votes

if TYPE_CHECKING:
    from rence_lightning.evaluation.metrics import BenchmarkMetrics, score_problems

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "BenchmarkFile",
    "BenchmarkMetrics",
    "Description",
    "Difference",
    "EvaluatedProblem",
    "Evaluation",
    "Results",
    "SameAnswers",
    "Sample",
    "SampleFolder",
    "append_evaluation",
    "compare",
    "compare_paths",
    "comparison_table",
    "evaluated_problem",
    "evaluation_table",
    "find_samples",
    "forget_evaluations_after",
    "iteration_of",
    "load_benchmark",
    "macro_average",
    "read_evaluations",
    "score_problems",
    "settings_that_differ",
    "votes",
]


def __getattr__(name: str) -> Any:
    """Imports the metric when it is first used: torchmetrics takes seconds, and a comparison or a report needs none."""
    if name in ("BenchmarkMetrics", "score_problems"):
        from rence_lightning.evaluation import metrics

        return getattr(metrics, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
