"""Benchmark figures against NumPy on the whole arrays, in whatever parts the problems are added."""

from collections import Counter
from itertools import combinations
from math import comb

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rence_lightning.evaluation import EvaluatedProblem, Sample, macro_average
from rence_lightning.evaluation.figures import BenchmarkMetrics, majority_share
from rence_lightning.evaluation.intervals import LEVEL, RESAMPLES, interval, resampled_means

Arrays = dict[str, np.ndarray]


def arrays(problems: int, repeats: int, seed: int) -> Arrays:
    """Answers 0 to 2 and none; one answer to each problem is correct, which may be one that no response gives."""
    random = np.random.default_rng(seed)
    votes = random.integers(-1, 3, size=(problems, repeats))
    right = random.integers(0, 4, size=(problems, 1))
    return {
        "correct": votes == right,
        "votes": votes,
        "truncated": random.uniform(size=(problems, repeats)) < random.uniform(),
        "lengths": random.integers(0, 10_000, size=(problems, repeats)),
    }


def problems_of(values: Arrays, rows: slice = slice(None)) -> dict[int, EvaluatedProblem]:
    columns = (values["correct"], values["votes"], values["truncated"], values["lengths"])
    whole = {
        number: EvaluatedProblem(
            str(number),
            "",
            "",
            "",
            tuple(
                Sample("", None, bool(right), 0.0, int(vote), int(length), "length" if cut else "stop")
                for right, vote, cut, length in zip(*row, strict=True)
            ),
        )
        for number, row in enumerate(zip(*columns, strict=True))
    }
    return dict(list(whole.items())[rows])


def majority(correct: np.ndarray, votes: np.ndarray) -> float:
    counts = Counter(vote for vote in votes.tolist() if vote >= 0)
    if not counts:
        return 0.0
    winners = [vote for vote, count in counts.items() if count == max(counts.values())]
    return float(np.mean([bool(correct[votes == vote].any()) for vote in winners]))


def reference(values: Arrays) -> dict[str, float]:
    correct = values["correct"]
    repeats = correct.shape[1]
    per_repeat = correct.mean(axis=0)
    at = {
        f"pass@{m}": np.mean([[row[list(few)].any() for few in combinations(range(repeats), m)] for row in correct])
        for m in (2, 4)
        if m < repeats
    }
    return {
        "avg": per_repeat.mean(),
        "std": per_repeat.std(ddof=1) if repeats > 1 else 0.0,
        **at,
        "pass": correct.any(axis=1).mean(),
        "maj": float(np.mean([majority(*row) for row in zip(correct, values["votes"], strict=True)])),
        "answered": (values["votes"] >= 0).mean(),
        "truncated": values["truncated"].mean(),
        "length": values["lengths"].mean(),
        "problems": len(correct),
    }


sizes = {"problems": st.integers(1, 40), "repeats": st.integers(1, 8), "seed": st.integers(0, 2**32)}


@settings(deadline=None, max_examples=25)
@given(**sizes, cut=st.integers(0, 40))
def test_figures_are_numpys(problems: int, repeats: int, seed: int, cut: int) -> None:
    """pass@m against the mean over all choices of m responses."""
    values = arrays(problems, repeats, seed)
    metrics = BenchmarkMetrics(repeats)
    metrics.update(problems_of(values, slice(cut)))
    metrics.update(problems_of(values, slice(cut, None)))
    figures = metrics.compute()
    assert figures.pop("avg_low") <= figures["avg"] + 1e-12
    assert figures.pop("avg_high") >= figures["avg"] - 1e-12
    assert figures == pytest.approx(reference(values), rel=1e-12, abs=1e-12)


@settings(deadline=None, max_examples=10)
@given(**sizes, cut=st.integers(0, 40), repeated=st.integers(0, 5))
def test_ranks_make_one_process_to_the_bit(problems: int, repeats: int, seed: int, cut: int, repeated: int) -> None:
    """The states are joined as torchmetrics does, the second rank's first; some problems are on both ranks."""
    values = arrays(problems, repeats, seed)
    whole, first, second = BenchmarkMetrics(repeats), BenchmarkMetrics(repeats), BenchmarkMetrics(repeats)
    whole.update(problems_of(values))
    first.update(problems_of(values, slice(cut)))
    second.update(problems_of(values, slice(max(0, cut - repeated), None)))
    for name in second._defaults:
        gathered = torch.cat([torch.cat(getattr(second, name)), torch.cat(getattr(first, name))])
        setattr(second, name, gathered)
    assert second.compute() == whole.compute()


def test_the_interval_of_a_share_is_the_binomials() -> None:
    """Means of n draws with replacement from zeros and ones are binomial over n."""
    ones, n = 12, 40
    values = np.array([1.0] * ones + [0.0] * (n - ones))
    p = ones / n
    cumulative = np.cumsum([comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)])
    low, high = interval(resampled_means(values))
    exact = [int(np.searchsorted(cumulative, tail)) / n for tail in ((1 - LEVEL) / 2, (1 + LEVEL) / 2)]
    assert low == pytest.approx(exact[0], abs=1.001 / n)
    assert high == pytest.approx(exact[1], abs=1.001 / n)
    assert (low, high) == interval(resampled_means(values)), "the same each time"


@pytest.mark.parametrize("values", ["shares", "paired differences", "all distinct"])
def test_resampled_means_are_those_of_problems_drawn_one_by_one(values: str) -> None:
    """Against a plain loop over resamples: mean, spread and quantiles agree within the error of 10,000 draws."""
    random = np.random.default_rng(5)
    shares = random.binomial(4, 0.3, size=90) / 4
    sample = {
        "shares": shares,
        "paired differences": random.binomial(3, 0.5, size=90) / 3 - random.binomial(3, 0.3, size=90) / 3,
        "all distinct": random.normal(size=90),
    }[values]
    plain = np.array([sample[random.integers(len(sample), size=len(sample))].mean() for _ in range(RESAMPLES)])
    means = resampled_means(sample)
    assert means.shape == (RESAMPLES,)
    error = plain.std() / RESAMPLES**0.5
    assert means.mean() == pytest.approx(plain.mean(), abs=6 * error)
    assert means.std() == pytest.approx(plain.std(), rel=0.05)
    tails = [0.025, 0.25, 0.5, 0.75, 0.975]
    assert np.quantile(means, tails) == pytest.approx(np.quantile(plain, tails), abs=12 * error)


def test_the_draws_stay_the_same_from_version_to_version() -> None:
    """Published intervals can be repeated: these were drawn by the first release."""
    values = np.random.default_rng(0).binomial(4, 0.4, 1500) / 4
    assert interval(resampled_means(values)) == (0.3958333333333333, 0.4206666666666667)


def test_no_problem_is_an_error() -> None:
    with pytest.raises(ValueError, match="no problem was evaluated"):
        BenchmarkMetrics(4).compute()


def test_the_macro_average_weighs_benchmarks_alike() -> None:
    assert macro_average({"a": {"avg": 0.2}, "b": {"avg": 0.6}}) == pytest.approx(0.4)


def test_votes_are_left_out_where_the_reward_names_no_answers() -> None:
    def figures(right: bool, vote: int) -> dict[str, float]:
        metrics = BenchmarkMetrics(2)
        sample = Sample("", None, right, 0.0, vote, 1, "stop")
        metrics.update({0: EvaluatedProblem("", "", "", "", (sample, sample))})
        return metrics.compute()

    assert {"maj", "answered"}.isdisjoint(figures(True, -1)), "right answers that the reward does not name"
    assert figures(True, 0)["maj"] == 1.0
    assert figures(False, -1)["answered"] == 0.0, "no response gave an answer, and none was right"


def test_the_majority_of_large_vote_numbers_and_of_none() -> None:
    assert majority_share(np.array([1, 0, 1]), np.array([2**62, 0, 2**62])) == 1.0
    assert majority_share(np.array([1, 0]), np.array([3, 0])) == 0.5, "a tie is shared"
    assert majority_share(np.array([0, 0]), np.array([-1, -1])) == 0.0
