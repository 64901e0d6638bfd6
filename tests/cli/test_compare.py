"""`compare`: settings, accuracies and differences of two evaluations or more."""

from pathlib import Path

import pytest
from command_line import error_of
from sweep_runs import write_run

from rence_lightning.cli.main import main
from rence_lightning.evaluation import compare, find_samples
from rence_lightning.evaluation.comparison import compare_seeds


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two seeds of two learning rates."""
    monkeypatch.chdir(tmp_path)
    solved = {1e-5: ([2, 1, 0, 0], [1, 1, 0, 0]), 1e-4: ([2, 2, 1, 0], [2, 1, 1, 0])}
    return [
        write_run(Path("runs") / f"x{rate:g}-{seed}", rate, seed, each)
        for rate, seeds in solved.items()
        for seed, each in enumerate(seeds)
    ]


def printed(capsys: pytest.CaptureFixture[str], *paths: Path) -> list[str]:
    """The cells of the tables that `compare` prints, row by row."""
    main(["compare", *map(str, paths)])
    lines = capsys.readouterr().out.splitlines()
    return [" ".join(line.replace("│", " ").replace("┃", " ").split()) for line in lines]


def test_each_setting_is_compared_with_the_first(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, *runs)
    folders = [find_samples(run) for run in runs]
    assert "run (seed) model.optimizer.lr sums % (95% interval)" in lines
    for rate, names, seeds in (
        ("1e-5", "runs/x1e-05-0 (0), runs/x1e-05-1 (1)", folders[:2]),
        ("1e-4", "runs/x0.0001-0 (0), runs/x0.0001-1 (1)", folders[2:]),
    ):
        found = compare_seeds([(None, folder) for folder in seeds])["sums"]
        assert f"{names} {rate} {100 * found.b:.1f} ({100 * found.low:.1f} to {100 * found.high:.1f})" in lines
    found = compare_seeds(list(zip(folders[:2], folders[2:], strict=True)))["sums"]
    assert "A: lr 1e-5" in lines and "B: each of the others" in lines
    interval = f"{100 * found.low:+.1f} to {100 * found.high:+.1f}"
    assert f"lr 1e-4: sums 4 31.2 56.2 +25.0 {interval}{' *' * found.sure} 4 / 0" in lines
    assert any("Student's t over pairs" in line for line in lines)


def test_of_two_evaluations_the_difference_is_paired_over_problems(
    runs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Of two seeds of one setting too, and of two evaluations of one run."""
    found = compare(find_samples(runs[0]), find_samples(runs[1]))["sums"]
    lines = printed(capsys, runs[0], runs[1])
    difference = f"{100 * found.low:+.1f} to {100 * found.high:+.1f}"
    assert f"sums 4 37.5 25.0 -12.5 {difference} 0 / 1" in lines
    assert "A: runs/x1e-05-0/evaluations/iteration-0002" in lines
    assert "the policy is not the only difference: seed: 0 and 1" in lines
    lines = printed(capsys, runs[0] / "evaluations" / "iteration-0000", runs[0])
    assert "runs/x1e-05-0/evaluations/iteration-0000 (0) 0.0 (0.0 to 0.0)" in lines
    assert any(line.startswith("sums 4 0.0 37.5 +37.5") for line in lines)


def test_three_seeds_of_one_setting_are_compared_with_the_first(
    runs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = printed(capsys, *runs[:2], write_run(Path("runs/x"), 1e-5, 2, [2, 2, 2, 2]))
    assert "A: runs/x1e-05-0" in lines
    assert any(line.startswith("runs/x: sums 4 37.5 100.0 +62.5") for line in lines)


def test_what_cannot_be_compared_is_refused_or_named(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    other = write_run(Path("runs/other"), 1e-3, 0, [1], benchmarks=["words"])
    text = " ".join(printed(capsys, runs[0], runs[2], other))
    assert "runs/other/evaluations/iteration-0002 words: no benchmark in common" in text and "lr 1e-4: sums" in text
    for paths, words in {
        (runs[0], runs[0]): "runs/x1e-05-0 is one evaluation; give two or more",
        (runs[0], Path("runs/nowhere")): "runs/nowhere is not a folder",
        (runs[0], other): "no benchmark in common",
    }.items():
        assert words in error_of(capsys, "compare", *map(str, paths))
