"""Comparisons of evaluations over seeds, and where their samples are found."""

import os
from pathlib import Path

import pytest
from scipy import stats
from sweep_runs import write_run

from rence_lightning.errors import UserError
from rence_lightning.evaluation import find_samples
from rence_lightning.evaluation.comparison import MACRO, compare, compare_seeds
from rence_lightning.evaluation.intervals import seed_interval


@pytest.mark.parametrize("values", [(0.5, 0.9), (0.1, 0.2, 0.4), (3.0, 1.0, 2.0, 2.0, 7.0), tuple(range(40))])
def test_the_interval_over_seeds_is_that_of_scipy(values: tuple[float, ...]) -> None:
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert seed_interval(values) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_pairs_of_seeds_have_the_mean_difference_with_student_s_interval(tmp_path: Path) -> None:
    """Of the averages of each benchmark, and of the macro average, which is that of each seed."""
    solved = {"a": [(2, 1, 0, 0), (1, 1, 1, 0), (0, 0, 0, 1)], "b": [(2, 2, 1, 0), (2, 1, 1, 1), (0, 2, 1, 0)]}
    folders = {
        name: [find_samples(write_run(tmp_path / f"{name}{n}", 1, n, each, ("x", "y"))) for n, each in enumerate(rows)]
        for name, rows in solved.items()
    }
    means = {name: [sum(each) / 8 for each in rows] for name, rows in solved.items()}
    found = compare_seeds(list(zip(folders["a"], folders["b"], strict=True)))
    assert {*found} == {"x", "y", MACRO}
    for name, each in found.items():
        differences = [b - a for a, b in zip(means["a"], means["b"], strict=True)]
        assert (each.a, each.b) == pytest.approx((sum(means["a"]) / 3, sum(means["b"]) / 3))
        assert (each.low, each.high) == pytest.approx(seed_interval(differences))
        assert (each.better, each.worse) == ((12, 2) if name == MACRO else (6, 1))
    alone = compare_seeds([(None, folder) for folder in folders["b"]])["x"]
    assert (alone.a, alone.b) == (0, pytest.approx(sum(means["b"]) / 3))
    assert (alone.low, alone.high) == pytest.approx(seed_interval(means["b"]))
    two = compare_seeds([(None, folders["a"][2]), (None, folders["b"][1])])["x"]
    assert (two.low, two.high) == (0, 1), "Student's t of two seeds goes beyond what is possible"
    assert compare_seeds([(folders["a"][0], folders["b"][0])]) == compare(folders["a"][0], folders["b"][0])


def test_an_accuracy_has_the_interval_of_the_evaluation(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 1, 0, [2, 1, 0, 0, 2, 2])
    (found,) = compare(None, find_samples(run)).values()
    line = (run / "evaluations.jsonl").read_text().splitlines()[1]
    assert f'"avg": {found.b}' in line and f'"avg_low": {found.low}, "avg_high": {found.high}' in line


def test_the_evaluation_of_a_run_s_policy_is_found_beside_it(tmp_path: Path) -> None:
    """The newest one of this run, and not that of another run under its name."""
    run, other = tmp_path / "run", tmp_path / "run-2"
    run.mkdir()
    with pytest.raises(UserError, match=r"no evaluation in it, nor of its policy in .*; give a run directory or"):
        find_samples(run)
    policies = (run / "checkpoints" / "iteration-0002", run / "hf", other / "hf")
    for number, policy in enumerate(policies):
        path = write_run(tmp_path / ("run-validate" + f"-{number}" * bool(number)), 1, 0, [1], policy=str(policy))
        for file in path.glob("evaluations/*/evaluation.json"):
            os.utime(file, (number, number))
    assert find_samples(run).path.parents[1].name == "run-validate-1"
    assert find_samples(other).path.parents[1].name == "run-validate-2"
    assert find_samples(write_run(run, 1, 0, [1])).path.parents[1] == run, "its own evaluations come first"
