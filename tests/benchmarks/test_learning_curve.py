"""The learning curve shows what the files of the runs say."""

import json
from pathlib import Path

import pytest

from benchmarks.learning_curve import main


def make_run(folder: Path, seed: int, shares: dict[int, float], benchmark: str = "sums") -> Path:
    folder.mkdir()
    (folder / "config.yaml").write_text(f"seed_everything: {seed}\n")
    lines = [
        {
            "iteration": at,
            "average": share,
            "benchmarks": {benchmark: {"avg": share, "avg_low": share - 0.05, "avg_high": share + 0.05}},
        }
        for at, share in shares.items()
    ]
    (folder / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "metrics.csv").write_text("iteration,rollouts/correct\n1,0.1\n2,0.4\n")
    return folder


def test_the_table_has_each_evaluation_and_equal_runs_give_equal_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = make_run(tmp_path / "one", 0, {0: 0.15, 20: 0.6})
    two = make_run(tmp_path / "two", 1, {0: 0.14, 20: 0.625})
    assert main([str(tmp_path / "a.svg"), str(one), str(two)]) == 0
    table = capsys.readouterr().out
    assert "| 0 | 0 | 15.0 | 10.0 to 20.0 |" in table
    assert "| 1 | 20 | 62.5 | 57.5 to 67.5 |" in table
    main([str(tmp_path / "b.svg"), str(one), str(two)])
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    main([str(tmp_path / "c.svg"), str(one)])
    assert (tmp_path / "a.svg").read_bytes() != (tmp_path / "c.svg").read_bytes()


def test_runs_that_cannot_be_compared_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = make_run(tmp_path / "one", 0, {0: 0.15})
    other = make_run(tmp_path / "other", 0, {0: 0.15}, benchmark="products")
    for runs, message in (([one, other], "0 benchmarks in common"), ([tmp_path / "none"], "is not a folder")):
        with pytest.raises(SystemExit):
            main([str(tmp_path / "a.svg"), *map(str, runs)])
        assert message in capsys.readouterr().err
