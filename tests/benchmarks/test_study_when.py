"""The page "When does ReNCE win?": its numbers against numpy and scipy, its sentences, its figures."""

from pathlib import Path

import numpy as np
import pytest
from command_line import ROOT
from scipy import stats

from benchmarks.study.levels import Levels
from benchmarks.study.outcome import Outcome, Point
from benchmarks.study.spec import load_spec

pytest.importorskip("matplotlib", reason="the figures need matplotlib (the extra `bench`)")

from benchmarks.study.when_figures import accuracy, glance
from benchmarks.study.when_page import write

SPEC = load_spec(ROOT / "benchmarks" / "study" / "study.yaml")
GAINS = {"ReNCE": 0.30, "GRPO": 0.10, "DAPO": 0.31, "DAPO (t_easy 0.5)": 0.2, "Semi-online DPO": 0.3}


def make_outcomes() -> list[Outcome]:
    """ReNCE is far above GRPO and near DAPO at each level, with noise of two points."""
    random = np.random.default_rng(3)
    outcomes = [
        Outcome("tables", task, "No training", None, "test", s, 0.05) for task in SPEC.tasks for s in SPEC.seeds
    ]
    for each in SPEC.questions:
        for level, how in each.levels.items():
            for method in each.methods:
                for seed in SPEC.seeds:
                    values = GAINS[method] + 0.02 * random.normal(size=2)
                    at = {
                        "responses": Point(4, 20, 4100, 9.0, float(values[0])),
                        "updates": Point(4, 16, 4000, 9.0, float(values[1])),
                    }
                    outcomes.append(
                        Outcome(
                            *("when", how.task, method, 1e-4, "test", seed, 0.05),
                            question=each.question.name,
                            level=level,
                            at=at,
                            command=command_of(each.question.name, level, method, seed),
                        )
                    )
    return outcomes


def command_of(question: str, level: str, method: str, seed: int) -> tuple[str, ...]:
    """K of 8 and a grader without errors are the same run."""
    shared = (question, level) in (("group_size", "8"), ("noise", "0%"))
    return ("default" if shared else f"{question} {level}", method, str(seed))


OUTCOMES = make_outcomes()


def test_the_numbers_of_a_row_are_those_of_scipy(tmp_path: Path) -> None:
    write(OUTCOMES, SPEC, tmp_path)
    text = (tmp_path / "when.md").read_text()
    section = text.split("## K: responses to a prompt")[1].split("\n## ")[0]
    row = next(line for line in section.splitlines() if line.startswith("| 16 |"))
    cells = [cell.strip(" *") for cell in row.strip("|").split("|")]
    values = {
        method: np.array(
            [
                100 * each.at["responses"].accuracy
                for each in OUTCOMES
                if (each.question, each.level, each.method) == ("group_size", "16", method)
            ]
        )
        for method in ("ReNCE", "GRPO", "DAPO")
    }

    def shown(sample: np.ndarray, form: str) -> str:
        low, high = stats.t.interval(0.95, 4, sample.mean(), stats.sem(sample))
        return f"{sample.mean():{form}} [{low:{form}}, {high:{form}}]"

    assert cells[:2] == ["16", "5.0 [5.0, 5.0]"]
    assert cells[2:5] == [shown(values[name], ".1f") for name in ("ReNCE", "GRPO", "DAPO")]
    assert cells[5:] == [shown(values["ReNCE"] - values[name], "+.1f") for name in ("GRPO", "DAPO")]


def test_sentences_and_counts_follow_the_intervals(tmp_path: Path) -> None:
    write(OUTCOMES, SPEC, tmp_path)
    text = (tmp_path / "when.md").read_text()
    rivals = sum(len(each.levels) * (len(each.methods) - 1) for each in SPEC.questions)
    assert f"of {rivals - 2} comparisons" in text, "the default level is counted twice"
    levels = Levels(SPEC, OUTCOMES)
    against_grpo = [each for each in levels.distinct("responses") if each.rival == "GRPO"]
    assert all(each.difference.sign == 1 for each in against_grpo)
    assert f"Against GRPO: above in {len(against_grpo)}, below in 0, the interval includes 0 in 0." in text
    first = against_grpo[0].difference
    assert f"{first.mean:.1f} points above at hard ({first.low:+.1f} to {first.high:+.1f})" in text
    assert "not finished" not in text


def test_missing_runs_and_runs_that_ended_early_are_named(tmp_path: Path) -> None:
    some = [each for each in OUTCOMES if not (each.question == "beta" and each.seed > 0)]
    broken = next(each for each in some if each.question == "noise")
    some[some.index(broken)] = Outcome(**{**vars(broken), "error": "the norm is nan"})
    write(some, SPEC, tmp_path)
    text = (tmp_path / "when.md").read_text()
    assert "**The study is not finished: 8 cells lack seeds.**" in text
    assert "beta 0.03, ReNCE (1 of 5)" in text and "Runs that ended early: 1;" in text and "the norm is nan" in text


def test_a_study_without_runs_has_a_page(tmp_path: Path) -> None:
    write([], SPEC, tmp_path)
    assert "not finished" in (tmp_path / "when.md").read_text()
    assert not list(tmp_path.glob("*.png"))


def test_every_question_has_its_panels(tmp_path: Path) -> None:
    levels = Levels(SPEC, OUTCOMES)
    panels = [panel for part in glance(levels).subfigs for panel in part.axes]
    assert len(panels) == 2 * len(SPEC.questions)
    dots = sum(len(panel.lines) > 1 for panel in panels)
    assert dots == len(panels), "a panel is empty"
    for each in SPEC.questions:
        assert [len(panel.containers) for panel in accuracy(levels, each).axes] == [len(each.methods)] * 2
    write(OUTCOMES, SPEC, tmp_path)
    assert len(list(tmp_path.glob("when_*.png"))) == len(SPEC.questions) + 1
