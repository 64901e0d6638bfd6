"""The learning rate of each method, chosen on the validation problems."""

from collections.abc import Callable, Iterable, Sequence

Scores = dict[float, float]
"""Mean validation accuracy over seeds and budgets, by learning rate."""


def choose_learning_rates(
    methods: Iterable[str],
    rates: Sequence[float],
    extend: int,
    measure: Callable[[list[tuple[str, float]]], dict[tuple[str, float], float]],
) -> dict[str, Scores]:
    """Tries every rate for every method.

    If the best rate is at an end of the list, the list is extended by the same factor, at most `extend` times at either
    end, so that no method is at a disadvantage because of where the list ends.

    Args:
        methods: Names of the methods.
        rates: Learning rates to try.
        extend: Number of further rates at either end.
        measure: Function that returns the accuracy for each pair of a method and a rate.
    """
    scores: dict[str, Scores] = {method: {} for method in methods}
    wanted = {method: list(rates) for method in scores}
    while any(wanted.values()):
        measured = measure([(method, rate) for method, tried in wanted.items() for rate in tried])
        for (method, rate), accuracy in measured.items():
            scores[method][rate] = accuracy
        wanted = {method: beyond(scores[method], rates, extend) for method in scores}
    return scores


def best(scores: Scores) -> float:
    """The rate with the highest score; among equal scores, the lowest rate."""
    return max(sorted(scores), key=lambda rate: scores[rate])


def beyond(scores: Scores, rates: Sequence[float], extend: int) -> list[float]:
    """The next rate to try if the best rate so far is the lowest or the highest tried; otherwise no rate."""
    tried, chosen = sorted(scores), best(scores)
    factor = max(rates) / sorted(rates)[-2]
    above, below = sum(rate > max(rates) for rate in tried), sum(rate < min(rates) for rate in tried)
    if chosen == tried[-1] and above < extend:
        return [float(f"{chosen * factor:.3g}")]
    if chosen == tried[0] and below < extend:
        return [float(f"{chosen / factor:.3g}")]
    return []
