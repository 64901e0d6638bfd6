"""Benchmark figures against NumPy on the whole arrays, however the problems come in."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rence_lightning.evaluation import BenchmarkMetrics, macro_average

Arrays = dict[str, np.ndarray]


def arrays(problems: int, repeats: int, seed: int) -> Arrays:
    random = np.random.default_rng(seed)
    shares = random.uniform(size=3)
    flags = {
        name: random.uniform(size=(problems, repeats)) < share
        for name, share in zip(("correct", "boxed", "truncated"), shares, strict=True)
    }
    return {**flags, "lengths": random.integers(0, 10_000, size=(problems, repeats))}


def update(metrics: BenchmarkMetrics, values: Arrays, rows: slice = slice(None)) -> None:
    metrics.update(**{name: torch.from_numpy(value[rows]) for name, value in values.items()})


def reference(values: Arrays) -> dict[str, float]:
    per_repeat = values["correct"].mean(axis=0)
    return {
        "avg": per_repeat.mean(),
        "std": per_repeat.std(ddof=1) if len(per_repeat) > 1 else 0.0,
        "pass": values["correct"].any(axis=1).mean(),
        "boxed": values["boxed"].mean(),
        "truncated": values["truncated"].mean(),
        "length": values["lengths"].mean(),
    }


sizes = {"problems": st.integers(1, 40), "repeats": st.integers(1, 8), "seed": st.integers(0, 2**32)}


@settings(deadline=None, max_examples=50)
@given(**sizes, cut=st.integers(0, 40))
def test_figures_are_numpys(problems: int, repeats: int, seed: int, cut: int) -> None:
    values = arrays(problems, repeats, seed)
    metrics = BenchmarkMetrics(repeats)
    update(metrics, values, slice(cut))
    update(metrics, values, slice(cut, None))
    assert metrics.compute() == pytest.approx(reference(values), rel=1e-12, abs=1e-12)


@settings(deadline=None, max_examples=20)
@given(**sizes, cut=st.integers(0, 40))
def test_ranks_sum_to_one_process(problems: int, repeats: int, seed: int, cut: int) -> None:
    values = arrays(problems, repeats, seed)
    whole, first, second = BenchmarkMetrics(repeats), BenchmarkMetrics(repeats), BenchmarkMetrics(repeats)
    update(whole, values)
    update(first, values, slice(cut))
    update(second, values, slice(cut, None))
    # What torchmetrics does with states gathered from the ranks.
    for name, reduction in first._reductions.items():
        setattr(first, name, reduction(torch.stack([getattr(first, name), getattr(second, name)])))
    assert first.compute() == whole.compute()


def test_a_reset_forgets() -> None:
    metrics = BenchmarkMetrics(2)
    update(metrics, arrays(5, 2, seed=0))
    metrics.reset()
    values = arrays(7, 2, seed=1)
    update(metrics, values)
    assert metrics.compute() == pytest.approx(reference(values))


def test_wrong_shapes_and_no_data_are_refused() -> None:
    metrics = BenchmarkMetrics(4)
    with pytest.raises(ValueError, match=r"correct has shape \(3, 2\), not \(problems, 4\)"):
        update(metrics, arrays(3, 2, seed=0))
    with pytest.raises(ValueError, match=r"lengths has shape \(2, 4\)"):
        update(metrics, {**arrays(3, 4, seed=0), "lengths": arrays(2, 4, seed=0)["lengths"]})
    with pytest.raises(ValueError, match="no problem was evaluated"):
        metrics.compute()
    with pytest.raises(ValueError, match="repeats must be at least 1"):
        BenchmarkMetrics(0)


def test_the_macro_average_weighs_benchmarks_alike() -> None:
    assert macro_average({"a": {"avg": 0.2, "pass": 1.0}, "b": {"avg": 0.4, "pass": 1.0}}) == pytest.approx(0.3)
    with pytest.raises(ValueError, match="no benchmark"):
        macro_average({})
