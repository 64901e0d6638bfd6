"""The next steps: each is given by the figures that call for it, and a command that it names is understood."""

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import CONF, config_of

from rence_lightning.evaluation import Difference
from rence_lightning.report.answers import next_steps
from rence_lightning.report.checks import Finding, Level
from rence_lightning.report.run_record import RunRecord
from rence_lightning.run.directory import Run

HEALTHY: dict[str, float] = {
    "truncated": 0.01,
    "share_too_easy": 0.3,
    "share_mastered": 0.1,
    "share_too_hard": 0.2,
    "correct": 0.5,
}


def record(folder: Path, figures: dict[str, float], iterations: int = 20) -> RunRecord:
    """A finished run of the demo whose recent figures are given; those at its start are opposite."""
    names = ["iteration", *(f"rollouts/{name}" for name in figures)]
    rows = [[1 - value for value in figures.values()]] * (iterations // 2)
    rows += [list(figures.values())] * (iterations - iterations // 2)
    lines = [",".join(names), *(f"{at},{','.join(map(str, row))}" for at, row in enumerate(rows, start=1))]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    config = yaml.safe_load((CONF / "arithmetic.yaml").read_text())
    config["trainer"]["run_dir"] = str(folder)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "hf").mkdir(exist_ok=True)
    return RunRecord(folder)


def evaluated(monkeypatch: pytest.MonkeyPatch, right: float, late: tuple[float, float], whole: bool = True) -> None:
    """Three evaluations, the last of which has a share of right answers and a change since the one before."""

    def change(self: RunRecord, before: int | None = None) -> Difference | None:
        low, high = late if before is not None else (0.3, 0.4)
        return Difference(100, 0.4, 0.4 + (low + high) / 2, low, high, 9, 1) if whole else None

    lines = [{"iteration": at, "average": right, "benchmarks": {}} for at in (0, 10, 20)]
    monkeypatch.setattr(RunRecord, "evaluations", lines)
    monkeypatch.setattr(RunRecord, "change", change)


RISING, LEVEL = (0.05, 0.11), (-0.02, 0.03)
CASES: list[tuple[dict[str, float], float, tuple[float, float], list[str]]] = [
    ({}, 0.6, LEVEL, ["This is one seed: +35.0 points", "Use "]),
    (
        {},
        0.6,
        RISING,
        ["Accuracy still rose after iteration 10 (+8.0 points, 95% interval +5.0 to +11.0)", "This", "Use"],
    ),
    ({"truncated": 0.06}, 0.6, LEVEL, ["6.0% of the recent responses were cut at 64 tokens.", "This", "Use"]),
    ({"share_too_hard": 0.6}, 0.6, LEVEL, ["60% of the recent groups were too hard.", "This", "Use"]),
    ({"share_mastered": 0.6}, 0.6, LEVEL, ["90% of the recent groups were too easy or mastered.", "This", "Use"]),
    ({}, 0.97, LEVEL, ["97.0% of the answers are right.", "This", "Use"]),
    ({"share_mastered": 0.6, "truncated": 0.06}, 0.6, RISING, ["6.0%", "Accuracy", "90%"]),
]


@pytest.mark.parametrize(("figures", "right", "late", "expected"), CASES)
def test_a_step_is_called_for_by_its_figures(
    figures: dict[str, float],
    right: float,
    late: tuple[float, float],
    expected: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    evaluated(monkeypatch, right, late)
    steps = next_steps(record(tmp_path, HEALTHY | figures), [])
    assert len(steps) == len(expected)
    for (text, _), start in zip(steps, expected, strict=True):
        assert text.startswith(start), text


def test_figures_that_are_missing_call_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = record(tmp_path, {"correct": 0.5})
    assert [text[:3] for text, _ in next_steps(run, [])] == ["Use"]
    (tmp_path / "hf").rmdir()
    assert next_steps(run, []) == [
        ("Compare it with another run:", f"python -m rence_lightning report {tmp_path} ANOTHER")
    ]
    evaluated(monkeypatch, 0.6, RISING, whole=False)  # without samples
    assert len(next_steps(run, [])) == 1
    run.__dict__["identity"] = Run(tmp_path, "a", "warmup")  # that has exported no policy to go on from
    assert [text[:7] for text, _ in next_steps(run, [])] == ["Compare"]


def test_a_run_that_ended_early_is_not_told_to_train_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All prompts were mastered before the last planned iteration."""
    evaluated(monkeypatch, 0.6, RISING)
    assert not any("still rose" in text for text, _ in next_steps(record(tmp_path, HEALTHY, iterations=12), []))


def test_what_the_checks_advise_comes_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated(monkeypatch, 0.97, RISING)
    findings = [Finding(str(n), Level.watch, "...", f"advice {n}") for n in range(4)]
    steps = next_steps(record(tmp_path, HEALTHY), [*findings, Finding("fine", Level.fine, "...")])
    assert steps == [("advice 0", ""), ("advice 1", ""), ("advice 2", "")]


def test_the_commands_are_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder := tmp_path / "a run").mkdir()
    seen: dict[str, Any] = {}
    for figures, late in (({"truncated": 0.06}, RISING), ({"share_too_hard": 0.6}, LEVEL)):
        evaluated(monkeypatch, 0.97, late)
        for _, line in next_steps(record(folder, HEALTHY | figures), []):
            for command in line.split(" && "):
                words = shlex.split(command)
                if words[:4] == ["python", "-m", "rence_lightning", "fit"]:
                    seen[words[6]] = config_of("fit", *words[4:])
                else:
                    assert words[3:] in (["warmup", "--config", f"{folder}/config.yaml"],
                                         ["report", str(folder), f"{folder}-seed"])  # fmt: skip
    assert seen["--data.sampling.max_response_tokens"]["data"]["sampling"]["max_response_tokens"] == 128
    assert seen["--ckpt_path"]["trainer"]["max_iterations"] == 40
    assert seen["--seed_everything"]["seed_everything"] == 1
    assert seen["--model.policy"]["data"]["problems"][0]["init_args"]["path"] == "HARDER.jsonl"
