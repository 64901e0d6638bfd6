"""Output of a run: a line for each iteration that fits 100 columns, bars with rates, results reported by hooks."""

import io
import re
from pathlib import Path
from typing import Any

import pytest
from arithmetic_run import fresh_start, make_data, make_module, make_trainer, small_evaluation
from rich.console import Console

import rence_lightning.callbacks.progress as progress_module
from rence_lightning.callbacks import Callback, Checkpoint, ExportPolicy, Progress
from rence_lightning.callbacks.iteration_table import LEGEND, IterationLine, clock, duration, rate
from rence_lightning.errors import EngineError
from rence_lightning.evaluation import Evaluation, read_evaluations
from rence_lightning.rollouts import TransformersEngine

EXAMPLE = IterationLine(12, 20, 0.613, 0.65, 31.4, 24, 87, 0.412, 1.2e-4, 1.9, 1.5, 27.3)
LARGE = IterationLine(
    12345, 100000, 1.0, -1234.5678, 131072.0, 16384, 163840, -123456.789, -1.2e-104, 123456.0, 34567.0, 1e8
)


def test_an_iteration_is_one_aligned_line() -> None:
    assert str(EXAMPLE).startswith("iteration  12/20  ")
    headings = EXAMPLE.heading.split()
    assert headings == ["correct", "reward", "length", "kept", "loss", "kl", "rollouts", "updates", "left"]
    values = ["61.3%", "0.650", "31", "24/87", "0.412", "1.2e-04", "1.9 s", "1.5 s", "0:00:27"]
    for heading, value in zip(headings, values, strict=True):
        end = EXAMPLE.heading.index(heading) + len(heading)
        assert str(EXAMPLE)[:end].endswith(f" {value}"), f"{value} is not under {heading}"
    assert str(EXAMPLE).count("24") == 1


@pytest.mark.parametrize(
    "line",
    [
        EXAMPLE,
        IterationLine(200, 200, 1.0, -0.65, 6656.0, 512, 5120, -10.412, 1.2e-4, 3600.0, 35999.0, 35999.0),
        IterationLine(999, 999, 1.0, -99.65, 131072.0, 4096, 40960, -9999.412, -1.2e-4, 359999.0, 35999.0, 8639999.0),
        IterationLine(1000, 1000, 1.0, -1e9, 131072.0, 4096, 40960, 1e12, float("nan"), 359999.0, 1e6, 1e7),
        LARGE,
    ],
)
def test_lines_fit_a_hundred_columns(line: IterationLine) -> None:
    assert len(str(line)) <= 100
    assert len(line.heading) <= 100
    assert len(LEGEND) <= 100


def test_an_iteration_without_updates_has_no_loss() -> None:
    line = IterationLine(3, 4, 1.0, 1.0, 5.0, 0, 9, None, None, 1.0, 0.0, 1.0)
    assert str(line).split()[5:8] == ["0/9", "-", "-"]


def test_times_and_rates() -> None:
    assert [duration(99.9), duration(99.96), duration(125)] == ["99.9 s", "0:01:40", "0:02:05"]
    assert [clock(35999), clock(36000), clock(43500), clock(442800)] == ["9:59:59", "10h 00m", "12h 05m", "5d 03h"]
    assert [rate(5, 2.0, "update"), rate(2, 16.0, "update")] == ["2.5 updates/s", "8.0 s/update"]


def printed_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if re.match(r"iteration +\d+/\d+ ", line)]


class Clock:
    """A clock that only a callback moves."""

    now = 1000.0

    def perf_counter(self) -> float:
        return self.now


class Slow(Callback):
    """Iterations of 10, 20 and 30 seconds with rollouts of 4 seconds, and evaluations of 100 seconds."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_rollouts_end(self, *_: Any) -> None:
        self.clock.now += 4

    def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
        self.clock.now += 10 * trainer.current_epoch - 4

    def on_validation_start(self, *_: Any) -> None:
        self.clock.now += 100


def test_a_run_prints_a_line_for_each_iteration_with_the_time_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The evaluation after iteration 2 counts in the mean of three iterations: (10 + 20 + 100 + 30) / 3."""
    clock = Clock()
    monkeypatch.setattr(progress_module, "time", clock)
    fresh_start()
    callbacks = [Slow(clock), Progress(bars=False), small_evaluation(every=2, limit=4)]
    trainer = make_trainer(tmp_path / "run", callbacks, max_iterations=4)
    batches: list[tuple[int, int]] = []

    class Watch(Callback):
        def on_rollouts_end(self, trainer: Any, module: Any, batch: Any) -> None:
            batches.append((len(batch.groups), len(batch.sampled)))

    trainer.callbacks.append(Watch())
    trainer.fit(make_module(), make_data())
    out = capsys.readouterr().out
    lines = printed_lines(out)
    assert [line.split()[1] for line in lines] == ["1/4", "2/4", "3/4", "4/4"]
    assert [line.split()[5] for line in lines] == [f"{kept}/{sampled}" for kept, sampled in batches]
    assert [line.split()[8:10] for line in lines] == [["4.0", "s"]] * 4
    assert [line.split()[10:12] for line in lines] == [[f"{seconds:.1f}", "s"] for seconds in (6, 16, 26, 36)]
    assert [line.split()[-1] for line in lines] == ["0:00:30", "0:00:30", "0:00:53", "0:00:00"]
    assert all(len(line) <= 100 for line in [*lines, LEGEND])
    assert out.count(LEGEND) == 1
    assert out.count("correct  reward") == 2, "the headings are repeated after an evaluation, not for each line"


def test_bars_show_rates_and_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal of 100 columns nothing is cut: every bar shows its rate."""
    progress = Progress()
    monkeypatch.setenv("TERM", "xterm")
    output = io.StringIO()
    progress.console = Console(file=output, force_terminal=True, width=100, highlight=False, soft_wrap=True)
    fresh_start()
    trainer = make_trainer(tmp_path / "run", [progress, small_evaluation(limit=4)], max_iterations=1)
    trainer.fit(make_module(), make_data())
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output.getvalue())
    bars = [line for line in re.split(r"[\r\n]+", shown) if "━" in line and "┃" not in line]
    for task, unit in (
        ("iteration 1/1  rollouts", "tokens/s"),
        ("iteration 1/1  updates", r"(updates/s|s/update)  loss \S+  kl \S+e"),
        ("evaluation  arithmetic", "tokens/s"),
    ):
        assert any(line.startswith(task) and re.search(unit, line) for line in bars), task
    assert not any("…" in line for line in bars)


class Listener(Callback):
    """Represents any callback that uses the results of others."""

    def __init__(self) -> None:
        self.evaluations: list[Evaluation] = []
        self.exports: list[Path] = []

    def on_evaluation_end(self, trainer: Any, module: Any, evaluation: Evaluation) -> None:
        self.evaluations.append(evaluation)

    def on_export(self, trainer: Any, module: Any, folder: Path) -> None:
        assert (folder / "config.json").exists(), "called before the export"
        self.exports.append(folder)


def test_results_are_reported_by_hooks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fresh_start()
    listener, run_dir = Listener(), tmp_path / "run"
    trainer = make_trainer(
        run_dir, [listener, Progress(bars=False), small_evaluation(every=1, limit=6), ExportPolicy()], max_iterations=2
    )
    trainer.fit(make_module(), make_data())
    recorded = read_evaluations(run_dir / "evaluations.jsonl")
    assert [(each.iteration, each.results) for each in listener.evaluations] == [
        (line["iteration"], line["benchmarks"]) for line in recorded
    ]
    assert [each.first for each in listener.evaluations] == [None, *[recorded[0]["benchmarks"]] * 2]
    for each in listener.evaluations:
        assert (each.repeats, each.temperature, each.baseline) == (2, 1.0, None)
        assert len(each.samples.read("arithmetic")) == 6
    assert listener.exports == [run_dir / "hf"]
    out = capsys.readouterr().out
    first, last = (line["benchmarks"]["arithmetic"]["avg"] for line in (recorded[0], recorded[-1]))
    assert f"arithmetic: sampled pass@1 {first:.1%} -> {last:.1%} (avg@2 at temperature 1, 6 problems" in out
    assert f"trained policy  {run_dir / 'hf'}" in out


def test_progress_knows_any_callback_that_evaluates_and_exports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The results of a callback of another type are shown as well: no type is looked for."""

    class Other(Callback):
        def on_train_end(self, trainer: Any, module: Any) -> None:
            figures = {"avg": 0.5, "std": 0.0, "problems": 8.0}
            first = {"mine": {**figures, "avg": 0.25}}
            samples: Any = None
            trainer.call("on_evaluation_end", Evaluation(1, {"mine": figures}, 3, 0.5, samples, first))
            trainer.call("on_export", tmp_path / "elsewhere")

    fresh_start()
    make_trainer(tmp_path / "run", [Progress(bars=False), Other()], max_iterations=1).fit(make_module(), make_data())
    out = capsys.readouterr().out
    assert "mine: sampled pass@1 25.0% -> 50.0% (avg@3 at temperature 0.5, 8 problems" in out
    assert f"trained policy  {tmp_path / 'elsewhere'}" in out


def test_an_earlier_evaluation_is_compared_with_in_validate_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (0, 1):
        fresh_start()
        settings = {"baseline": str(tmp_path / "run-validate")} if seed else {}
        listener = Listener()
        trainer = make_trainer(
            tmp_path / "run", [listener, Progress(bars=False), small_evaluation(limit=6, **settings)]
        )
        trainer.validate(make_module(), make_data(seed=seed))
        out = capsys.readouterr().out
    assert "paired bootstrap over problems" in out
    assert "the two evaluations also differ in a setting: seed: 0 and 1" in out
    assert f"written to {tmp_path / 'run-validate-2'}" in out
    (evaluation,) = listener.evaluations
    assert evaluation.baseline is not None
    assert evaluation.baseline.path == tmp_path / "run-validate" / "evaluations" / "iteration-0000"
    fresh_start()
    listener = Listener()
    trainer = make_trainer(tmp_path / "fit", [listener, small_evaluation(limit=6, **settings)], max_iterations=1)
    trainer.fit(make_module(), make_data())
    assert [each.baseline for each in listener.evaluations] == [None, None]


class FailingEngine(TransformersEngine):
    """Samples nothing."""

    def generate(self, *_: Any, **__: Any) -> Any:
        raise EngineError("its memory is gone")


def test_an_engine_that_fails_in_validate_ends_with_its_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh_start()
    trainer = make_trainer(tmp_path / "run", [Progress(bars=False), small_evaluation(), Checkpoint()])
    with pytest.raises(EngineError, match="its memory is gone"):
        trainer.validate(make_module(), make_data(engine=FailingEngine()))
    assert "interrupted; run the same command again to continue in" in capsys.readouterr().out
    assert not (tmp_path / "run-validate" / "checkpoints").exists()
