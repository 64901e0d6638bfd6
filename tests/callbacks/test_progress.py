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
from rence_lightning.callbacks.progress import LEGEND, WIDTHS, aligned, clock, iteration_line
from rence_lightning.evaluation import Evaluation, read_evaluations

FIGURES = ("rollouts/correct", "rollouts/reward", "rollouts/length", "rollouts/groups_trained",
           "rollouts/groups_sampled", "iteration/loss", "iteration/kl")  # fmt: skip


def line(label: str, *values: float) -> str:
    return iteration_line(label, dict(zip(FIGURES, values[:7], strict=True)), *values[7:])


def test_an_iteration_is_one_aligned_line() -> None:
    label = "iteration  12/20"
    above, below = (
        aligned(" " * len(label), list(WIDTHS)),
        line(label, 0.613, 0.65, 31.4, 24, 87, 0.412, 1.2e-4, 1.9, 1.5, 27.3),
    )
    assert below.startswith(label)
    headings = above.split()
    assert headings == ["correct", "reward", "length", "kept", "loss", "kl", "rollouts", "updates", "left"]
    values = ["61.3%", "0.650", "31", "24/87", "0.412", "1.2e-04", "1.9 s", "1.5 s", "0:00:27"]
    for name, value in zip(headings, values, strict=True):
        end = above.index(name) + len(name)
        assert below[:end].endswith(f" {value}"), f"{value} is not under {name}"
    assert line(label, 1.0, 1.0, 5.0, 0, 9, 7.0, 7.0, 1.0, 0.0, 1.0).split()[5:8] == ["0/9", "-", "-"]


def test_lines_fit_a_hundred_columns() -> None:
    label = "iteration 200/200"
    longest = line(label, 1.0, -0.65, 6656.0, 512, 5120, -10.412, 1.2e-4, 3600.0, 35999.0, 35999.0)
    assert max(len(longest), len(LEGEND)) <= 100


def test_times_are_written_for_people() -> None:
    assert [clock(seconds) for seconds in (59.6, 125, 35999, 442800)] == ["0:01:00", "0:02:05", "9:59:59", "123:00:00"]


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
        ("iteration 1/1  updates", r"s/update  loss \S+  kl \S+e"),
        ("evaluation  arithmetic", "tokens/s"),
    ):
        assert any(line.startswith(task) and re.search(unit, line) for line in bars), task
    assert not any("…" in line for line in bars)


def test_an_interrupt_that_no_signal_brought_says_how_to_continue(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its cause is not printed, and so neither is a note on it."""

    class Interrupts(Callback):
        def on_train_epoch_start(self, trainer: Any, *_: Any) -> None:
            if trainer.current_epoch:
                raise KeyboardInterrupt

    fresh_start()
    trainer = make_trainer(tmp_path / "run", [Interrupts(), Checkpoint(every=1), Progress(bars=False)])
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(make_module(), make_data())
    said = f"stopped by KeyboardInterrupt; the last checkpoint is iteration-0001: continue with --ckpt_path {tmp_path}"
    assert said in capsys.readouterr().out


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
