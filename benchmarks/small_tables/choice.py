"""The learning rate of each method, chosen on the validation split."""

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean

from benchmarks.small_tables.runs import Job, Result
from benchmarks.small_tables.spec import Method

Scores = dict[Method, dict[float, float]]
"""Mean validation accuracy over the selection seeds, by method and learning rate."""


def choose_learning_rates(
    methods: Iterable[Method],
    rates: Sequence[float],
    seeds: Sequence[int],
    extend: int,
    run: Callable[[list[Job]], dict[Job, Result]],
) -> Scores:
    """Tries every rate for every method.

    If the best rate is at an end of the list, the list is extended by the same factor, at most `extend` times at either
    end, so that no method is at a disadvantage because of where the list ends.
    """
    scores: Scores = {method: {} for method in methods}
    wanted = {method: list(rates) for method in scores}
    while any(wanted.values()):
        jobs = {
            (method, rate): [Job(method, rate, "validation", seed) for seed in seeds]
            for method, tried in wanted.items()
            for rate in tried
        }
        results = run([job for group in jobs.values() for job in group])
        for (method, rate), group in jobs.items():
            scores[method][rate] = fmean(results[job].accuracy for job in group)
        wanted = {method: beyond(scores[method], rates, extend) for method in scores}
    return scores


def best(scores: dict[float, float]) -> float:
    """The rate with the highest score; among equal scores, the lowest rate."""
    return max(sorted(scores), key=lambda rate: scores[rate])


def beyond(scores: dict[float, float], rates: Sequence[float], extend: int) -> list[float]:
    """The next rate to try if the best rate so far is the lowest or the highest tried; otherwise no rate."""
    tried, chosen = sorted(scores), best(scores)
    factor = max(rates) / sorted(rates)[-2]
    above, below = sum(rate > max(rates) for rate in tried), sum(rate < min(rates) for rate in tried)
    if chosen == tried[-1] and above < extend:
        return [float(f"{chosen * factor:.3g}")]
    if chosen == tried[0] and below < extend:
        return [float(f"{chosen / factor:.3g}")]
    return []
