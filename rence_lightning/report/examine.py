"""The checks of `health` on the contents of a run directory."""

from rence_lightning.report import health
from rence_lightning.report.results import Results
from rence_lightning.report.run_record import RunRecord
from rence_lightning.report.verdict import Check


def examine(run: RunRecord, results: Results) -> list[Check]:
    """The checks for which the run has figures, those that were raised first; none for a run of `validate`."""
    if run.command != "fit":
        return []
    values = run.values
    error = run.identity.error if run.identity is not None else None
    wanted = run.setting("data.prompts_per_iteration")
    found = [
        health.completion(run.iterations, run.planned, run.finished, run.running, error),
        health.accuracy(results.change, results.since_best, results.best) if results.trained else None,
        health.kl(values("iteration/kl"), kl_target(run)),
        health.positives(values("iteration/positive_log_ratio")),
        health.entropy(values("rollouts/entropy")),
        health.truncation(values("rollouts/truncated")),
        health.mismatch(values("rollouts/mismatch_abs"), computes_in_float32(run)),
        health.skipped(run.updates_skipped, run.updates, run.updates_overflowed),
        health.batches(values("rollouts/groups_trained"), wanted if isinstance(wanted, int) else None),
        health.correctness(values("rollouts/correct")),
        health.grading(run.grading_failures, max(values("rollouts/responses_total"), default=0.0)),
        health.movement(values("iteration/movement_seen"), values("iteration/weights_changed")),
        _contamination(run),
    ]
    return sorted((each for each in found if each is not None), key=lambda each: -each.level)


def kl_target(run: RunRecord) -> float | None:
    """Limit or target of the KL: the run's own, else the paper's if the KL is a mean over tokens; else None."""
    limit = run.setting("model.trust_region.limit")
    if isinstance(limit, int | float):
        return float(limit)
    adaptive = run.setting("adaptive_kl") or {}
    if adaptive.get("enabled", True) and isinstance(adaptive.get("target_kl"), int | float):
        return float(adaptive["target_kl"])
    per_token = run.setting("model.trust_region.reduction") in ("token", None)
    return health.KL_TARGET if per_token else None


def computes_in_float32(run: RunRecord) -> bool:
    """Whether trainer, parameters and engine are in float32, as far as the configuration says."""
    engine = run.setting("data.engine.init_args") or {}
    types = [run.setting("model.dtype"), engine.get("dtype")]
    precision = run.setting("trainer.precision")
    return precision in (None, "32-true") and all(each in (None, "float32") for each in types)


def _contamination(run: RunRecord) -> Check | None:
    problems = run.training_problems
    if not problems:
        return None
    found = sum(int(counts["problems"]) for counts in problems.get("contamination", {}).values())
    return health.contamination(found, problems.get("dropped", {}).get("contaminated", 0))
