"""Evaluations in runs: samples are saved, interrupted ones continued, two compared, and benchmarks held out."""

import json
import shutil
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from arithmetic_run import fresh_start, make_data, make_module, make_trainer, small_evaluation

from rence_lightning.callbacks import Progress
from rence_lightning.errors import UserError
from rence_lightning.evaluation import SampleFolder, compare, find_samples
from rence_lightning.evaluation.comparison import MACRO
from rence_lightning.evaluation.figures import BenchmarkMetrics
from rence_lightning.parts import last_boxed
from rence_lightning.prompts import ArithmeticProblems, FileProblems
from rence_lightning.rewards import math_equivalent
from rence_lightning.rollouts import Request, SamplingStep, TransformersEngine
from rence_lightning.training.trainer import Trainer

FIGURES = ("avg", "std", "avg_low", "avg_high", "pass", "maj", "answered", "truncated", "length", "problems")


def validate(run_dir: Path, engine: Any = None, **settings: Any) -> Trainer:
    """Evaluate with a configuration set, as the command line does."""
    fresh_start()
    trainer = make_trainer(run_dir, [Progress(bars=False), small_evaluation(repeats=3, **settings)])
    trainer.session.config_yaml = "the same: configuration\n"
    trainer.validate(make_module(), make_data(engine=engine or TransformersEngine(max_num_seqs=24)))
    return trainer


def figures_of(folder: Path) -> dict[str, float]:
    (line,) = (folder / "evaluations.jsonl").read_text().splitlines()
    figures = json.loads(line)["benchmarks"]["arithmetic"]
    return {name: figures[name] for name in FIGURES}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    validate(tmp_path_factory.mktemp("whole") / "run")
    return tmp_path_factory.getbasetemp() / "whole0" / "run-validate"


def test_the_figures_follow_from_the_saved_samples(whole: Path) -> None:
    samples = find_samples(whole)
    problems = samples.read("arithmetic")
    assert samples.finished == ["arithmetic"]
    assert list(problems) == [problem.id for problem in ArithmeticProblems("test").load()[:20]]
    for row in problems.values():
        assert row.prompt == f"{row.problem}\n"
        assert len(row.samples) == 3
        for sample in row.samples:
            assert sample.extracted == last_boxed(sample.response)
            right = sample.extracted is not None and math_equivalent(row.answer, sample.extracted)
            assert sample.correct == right
            assert sample.reward == (1.0 if right else 0.0 if sample.extracted is None else 0.1)
    again = BenchmarkMetrics(3)
    again.update(dict(enumerate(problems.values())))
    assert {name: again.compute()[name] for name in FIGURES} == figures_of(whole)


def test_benchmarks_are_sampled_in_one_stream_with_the_results_of_each_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two benchmarks whose problems have the same ids; the first of them is the same in both."""
    rows = ArithmeticProblems("test").load()
    sources = {}
    for name, problems in (("one", rows[:5]), ("two", [rows[0], *rows[5:9]])):
        lines = [{"id": f"{n}", "problem": row.problem, "answer": row.answer} for n, row in enumerate(problems)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
        sources[name] = FileProblems(str(tmp_path / f"{name}.jsonl"), source="both")
    streams: list[int] = []
    original = TransformersEngine.generate

    def generate(self: TransformersEngine, requests: Iterable[Request], cancelled: Container[int] = ()) -> Any:
        mine = list(requests)
        streams.append(len(mine))
        return original(self, mine, cancelled)

    monkeypatch.setattr(TransformersEngine, "generate", generate)
    trainer = validate(tmp_path / "both", benchmarks=sources)
    assert streams == [10]
    both, logged = find_samples(trainer.run_dir), trainer.callback_metrics
    assert both.finished == ["one", "two"] and logged["evaluation/tokens_per_second"] > 0
    for name in sources:
        alone = validate(tmp_path / name, benchmarks={name: sources[name]})
        assert both.read(name) == find_samples(alone.run_dir).read(name)
        figures = {key: value for key, value in alone.callback_metrics.items() if f"/{name}/" in key}
        assert figures == {key: value for key, value in logged.items() if f"/{name}/" in key} and len(figures) > 8
    assert list(both.read("one")) == list(both.read("two")), "the ids must be the same"
    first = [next(iter(both.read(name).values())) for name in sources]
    assert first[0].problem == first[1].problem
    assert first[0].samples != first[1].samples, "each benchmark has random streams of its own"


class Broken(TransformersEngine):
    """An engine that stops the process after some prompts, as an interrupt does."""

    left = 9

    def generate(self, requests: Iterable[Request], cancelled: Container[int] = ()) -> Iterator[SamplingStep]:
        for step in super().generate(requests, cancelled):
            if Broken.left < len(step.finished):
                raise KeyboardInterrupt
            Broken.left -= len(step.finished)
            yield step


Broken.__name__ = "TransformersEngine"  # the samples' description holds the engine's class name


def test_an_interrupted_evaluation_is_continued_with_the_same_result(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Broken, "left", 9)
    with pytest.raises(KeyboardInterrupt):
        validate(tmp_path / "run", Broken(max_num_seqs=9))
    folder = tmp_path / "run-validate"
    assert f"run the same command again to continue in {folder}" in capsys.readouterr().out
    part = folder / "evaluations" / "iteration-0000" / "arithmetic.part-0.jsonl"
    done = part.read_text()
    assert 6 <= len(done.split("\n")) - 1 <= 9
    part.write_text(done[:-40])  # a kill in the middle of a line loses only that line

    asked: list[Request] = []
    original = TransformersEngine.generate

    def generate(self: TransformersEngine, requests: Iterable[Request], cancelled: Container[int] = ()) -> Any:
        mine = list(requests)
        asked.extend(mine)
        return original(self, mine, cancelled)

    monkeypatch.setattr(TransformersEngine, "generate", generate)
    validate(tmp_path / "run")
    assert len(asked) == 20 - (len(done.split("\n")) - 2)
    assert not (tmp_path / "run-validate-2").exists()
    assert figures_of(folder) == figures_of(whole)
    assert find_samples(folder).read("arithmetic") == find_samples(whole).read("arithmetic")
    validate(tmp_path / "run")
    assert (tmp_path / "run-validate-2" / "evaluations.jsonl").exists(), "a finished evaluation is not continued"


def test_samples_of_a_different_policy_are_removed(tmp_path: Path, whole: Path) -> None:
    folder = tmp_path / "run-validate"
    shutil.copytree(whole, folder)
    (folder / "evaluations.jsonl").unlink()
    description = folder / "evaluations" / "iteration-0000" / "evaluation.json"
    description.write_text(description.read_text().replace('"weights": "', '"weights": "0'))
    rows = folder / "evaluations" / "iteration-0000" / "arithmetic.jsonl"
    rows.write_text(rows.read_text().replace('"correct": true', '"correct": false'))
    with pytest.warns(UserWarning, match="held samples of a different policy, benchmark or setting"):
        validate(tmp_path / "run")
    assert figures_of(folder) == figures_of(whole)


def copy_with(source: Path, target: Path, change: Any, name: str = "arithmetic") -> SampleFolder:
    """A copy of an evaluation with changed rows."""
    samples = find_samples(source)
    shutil.copytree(samples.path, target)
    rows = [json.loads(line) for line in (samples.path / "arithmetic.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        change(number, row)
    (target / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return SampleFolder(target)


def test_the_interval_is_of_paired_differences(whole: Path, tmp_path: Path) -> None:
    """B solves every third problem and A none: the difference's interval is that of a share of 7 in 20."""

    def none(number: int, row: dict[str, Any]) -> None:
        for sample in row["samples"]:
            sample["correct"] = False

    def third(number: int, row: dict[str, Any]) -> None:
        for sample in row["samples"]:
            sample["correct"] = number % 3 == 0

    a, b = copy_with(whole, tmp_path / "a", none), copy_with(whole, tmp_path / "b", third)
    difference = compare(a, b)["arithmetic"]
    assert difference.b - difference.a == pytest.approx(7 / 20)
    assert (difference.low, difference.high) == pytest.approx((0.15, 0.55), abs=0.051)
    assert difference.sure
    assert (difference.better, difference.worse) == (7, 0)
    copy_with(whole, tmp_path / "c", none, "other")
    shutil.copy(tmp_path / "c" / "other.jsonl", a.path / "other.jsonl")
    shutil.copy(tmp_path / "c" / "other.jsonl", b.path / "other.jsonl")
    macro = compare(a, b)[MACRO]
    assert macro.b - macro.a == pytest.approx(7 / 40)
    assert (macro.low, macro.high) == pytest.approx((difference.low / 2, difference.high / 2), abs=0.02)


def test_different_problems_are_not_compared(whole: Path, tmp_path: Path) -> None:
    def other_answer(number: int, row: dict[str, Any]) -> None:
        row["answer"] = "7" if number == 3 else row["answer"]

    other = copy_with(whole, tmp_path / "other", other_answer)
    with pytest.raises(UserError, match="of which 1 are different"):
        compare(find_samples(whole), other)
    (other.path / "arithmetic.jsonl").rename(other.path / "renamed.jsonl")
    with pytest.raises(UserError, match="no benchmark in common"):
        compare(find_samples(whole), other)
    with pytest.raises(UserError, match="no evaluation in it"):
        find_samples(tmp_path / "nowhere")


def test_what_is_evaluated_is_held_out_of_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test = ArithmeticProblems("test").load()
    for name, rows in (("mine", test[100:112]), ("hidden", test[:4])):
        lines = [json.dumps({"problem": row.problem, "answer": row.answer, "id": f"{name}{row.id}"}) for row in rows]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    hidden = FileProblems(str(tmp_path / "hidden.jsonl"))
    # Problems beyond `limit` are held out as well: another evaluation may use them.
    evaluation = small_evaluation(benchmarks={"mine": FileProblems(str(tmp_path / "mine.jsonl"))}, limit=2)
    evaluation.held_out = {"hidden": hidden}
    fresh_start()
    trainer = make_trainer(tmp_path / "run", [Progress(bars=False), evaluation], max_iterations=1)
    trainer.fit(make_module(), make_data(problems=[ArithmeticProblems("test")]))
    assert len(trainer.datamodule.prompts) == 500 - 12 - 4
    out = capsys.readouterr().out
    assert "training problems: 484 of 500; left out: 16 found in a benchmark" in out
    assert "benchmark problems found in the training data, and left out: 4 of hidden, 12 of mine" in out
    account = json.loads((tmp_path / "run" / "training_problems.json").read_text())
    assert account["contamination"] == {"mine": {"problems": 12, "exact": 12}, "hidden": {"problems": 4, "exact": 4}}
    assert len(account["details"]) == 16
