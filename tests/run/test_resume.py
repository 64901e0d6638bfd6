"""A run that is interrupted and resumed equals the run that was never interrupted, to the bit."""

import csv
import json
import random
import shutil
import signal
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from arithmetic_run import (
    TIMING,
    assert_same,
    finishing_callbacks,
    fresh_start,
    make_data,
    make_module,
    make_trainer,
    small_evaluation,
    state_of,
)

from rence_lightning.callbacks import Callback, Checkpoint
from rence_lightning.errors import PartError, Stopped, UserError
from rence_lightning.evaluation import find_samples
from rence_lightning.objectives import GRPO
from rence_lightning.policy.load import EMBEDDED
from rence_lightning.prompts import ArithmeticProblems, PromptTemplate
from rence_lightning.rewards import FunctionReward, Response
from rence_lightning.run.lock import Lock
from rence_lightning.sampling import NoFilter
from rence_lightning.training.trainer import Trainer


def run(
    run_dir: Path, iterations: int, ckpt_path: str | None = None, seed: int = 0, keep_last: int = 1, **data: Any
) -> None:
    fresh_start(seed)
    trainer = make_trainer(run_dir, finishing_callbacks(keep_last), max_iterations=iterations)
    trainer.fit(make_module(), make_data(**data), ckpt_path=ckpt_path)


@pytest.mark.slow
def test_six_iterations_are_three_and_three(tmp_path: Path) -> None:
    run(tmp_path / "whole", 6)
    run(tmp_path / "parts", 3)
    run(tmp_path / "parts", 6, ckpt_path="last", seed=123)  # what the seed set before the resume must not matter
    whole, parts = state_of(tmp_path / "whole"), state_of(tmp_path / "parts")
    history = [state[0]["run"]["callbacks"].pop("BenchmarkEvaluation") for state in (whole, parts)]
    # The run of three iterations has one more evaluation, at its end, after iteration 3.
    assert [row["iteration"] for row in history[0]["history"]] == [0, 5, 6]
    assert [row["iteration"] for row in history[1]["history"]] == [0, 3, 5, 6]
    for state in (whole, parts):
        state[0]["run"]["callbacks"].pop("Checkpoint")  # knows when it saved, which was at 3 as well
    assert_same(whole, parts)
    assert whole[0]["run"]["data"]["pool"]["mastered"], "the test needs mastered prompts"


def test_a_branch_has_the_past_of_its_parent_and_no_other_future(tmp_path: Path) -> None:
    """A run of four, resumed from its second iteration, leaves the first run as it is."""
    run(tmp_path / "run", 4, keep_last=9)
    before = contents(tmp_path / "run")
    run(tmp_path / "run", 3, ckpt_path=str(tmp_path / "run" / "checkpoints" / "iteration-0002"))
    assert contents(tmp_path / "run") == before
    branch = tmp_path / "run-2"
    evaluations = [json.loads(line) for line in (branch / "evaluations.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in evaluations] == [0, 3]
    with (branch / "metrics.csv").open() as file:
        steps = [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert steps == list(range(1, 7))
    assert [path.name for path in sorted((branch / "rollouts").iterdir())] == ["iteration-0003.jsonl"]
    identity = json.loads((branch / "run.json").read_text())
    assert identity["parent"]["checkpoint"] == "iteration-0002"
    assert identity["parent"]["run"] == json.loads((tmp_path / "run" / "run.json").read_text())["id"]


DATED = (
    "{{ strftime_now('%d') }}+{{ messages[0].content }}\n"
    "{% if messages | length > 1 %}{{ messages[1].content }}{{ eos_token }}{% endif %}"
)


def test_the_date_in_prompts_is_that_of_the_run_s_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a later day, a resumed run, a branch and an evaluation of it have its prompts; a new run has others."""
    policy, runs = shutil.copytree(EMBEDDED / "arithmetic", tmp_path / "policy"), tmp_path / "runs"
    (policy / "chat_template.jinja").write_text(DATED)

    def begin(run_dir: str, day: int, iterations: int, ckpt_path: str | None = None) -> tuple[Trainer, Any, Any]:
        clock = type("Clock", (datetime,), {"now": classmethod(lambda cls: datetime(2026, 3, day))})
        monkeypatch.setattr("rence_lightning.run.session.datetime", clock)
        evaluation = small_evaluation(every=0, repeats=1, limit=2)
        trainer = make_trainer(runs / run_dir, [evaluation, Checkpoint(every=1)], max_iterations=iterations)
        sizes = {"group_size": 2, "prompts_per_iteration": 1, "prompts_per_update": 1, "prompts_per_draw": 1}
        data = make_data(template=PromptTemplate("{problem}"), filter=NoFilter(), **sizes)
        return trainer, make_module(policy=str(policy)), data

    prompts = []
    for run_dir, day, iterations, ckpt_path in (
        *(("run", 10, 1, None), ("run", 11, 2, "last")),
        *(("branch", 12, 3, str(runs / "run")), ("new", 12, 0, None)),
    ):
        trainer, module, data = begin(run_dir, day, iterations)
        trainer.fit(module, data, ckpt_path)
        prompts.append(data.state_dict()["prompts"])
    assert prompts[0] == prompts[1] == prompts[2] != prompts[3]
    trainer, module, data = begin("run", 13, 2)
    trainer.validate(module, data, str(runs / "branch"))
    asked = find_samples(trainer.run_dir).read("arithmetic")
    assert len(asked) == 2 and all(each.prompt.startswith("10+") for each in asked.values())


def test_what_a_killed_run_had_begun_after_its_checkpoint_is_not_told(tmp_path: Path) -> None:
    """A run of four is killed, having saved after two; resumed with an end at three, it has three iterations."""
    run(tmp_path / "run", 2)
    rollouts = tmp_path / "run" / "rollouts"
    for number in (3, 4):
        shutil.copy(rollouts / "iteration-0002.jsonl", rollouts / f"iteration-{number:04d}.jsonl")
    run(tmp_path / "run", 3, ckpt_path="last")
    assert [path.name for path in sorted(rollouts.iterdir())] == [f"iteration-{n:04d}.jsonl" for n in (1, 2, 3)]
    assert (rollouts / "iteration-0003.jsonl").read_text() != (rollouts / "iteration-0002.jsonl").read_text()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_finished_run_prints_that_and_changes_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "run", 2)
    before = contents(tmp_path)
    capsys.readouterr()
    run(tmp_path / "run", 2, ckpt_path="last")
    assert "has 2 iterations, and trainer.max_iterations is 2: nothing is left to train; raise it to continue" in (
        capsys.readouterr().out
    )
    assert contents(tmp_path) == before


def resumed_optimizer(tmp_path: Path, first: Any, then: Any, **settings: Any) -> list[float]:
    """Learning rates of the updates of a run of one iteration, resumed for a second one with other settings."""
    for iterations, optimizer, ckpt_path in ((1, first, None), (2, then, "last")):
        fresh_start()
        trainer = make_trainer(tmp_path / "run", finishing_callbacks(), max_iterations=iterations)
        trainer.fit(make_module(optimizer=optimizer, **settings), make_data(), ckpt_path=ckpt_path)
    with (tmp_path / "run" / "metrics.csv").open() as file:
        return [float(row["train/learning_rate"]) for row in csv.DictReader(file) if row["train/learning_rate"]]


def adamw(lr: float) -> Any:
    return lambda parameters: torch.optim.AdamW(parameters, lr=lr)


def test_a_learning_rate_that_was_changed_is_applied(tmp_path: Path) -> None:
    assert resumed_optimizer(tmp_path, adamw(1e-4), adamw(5e-5)) == pytest.approx([1e-4, 1e-4, 5e-5, 5e-5])


def test_a_schedule_continues_from_the_new_learning_rate(tmp_path: Path) -> None:
    """The schedule halves the rate at each update: 1, 1/2, then 1/4 and 1/8 of the new one."""
    halving = lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)  # noqa: E731
    rates = resumed_optimizer(tmp_path, adamw(8e-5), adamw(16e-5), lr_scheduler=halving)
    assert rates == pytest.approx([8e-5, 4e-5, 4e-5, 2e-5])


class Rolls:
    """A reward by chance, from two random number generators; its roll of a given number interrupts the run."""

    def __init__(self, interrupts: int = 0) -> None:
        self.rolls, self.interrupts = 0, interrupts
        self.trainer: Any = None

    def __call__(self, response: Response) -> bool:
        self.rolls += 1
        if self.rolls == self.interrupts:
            self.trainer._stop_request.signal = signal.SIGINT
        return random.random() + np.random.random() > 1


def test_a_reward_by_chance_continues_exactly_after_an_interruption_of_rollouts(tmp_path: Path) -> None:
    def fit(name: str, rolls: Rolls, ckpt_path: str | None = None, seed: int = 0) -> None:
        fresh_start(seed)
        trainer = rolls.trainer = make_trainer(tmp_path / name, [Checkpoint(every=9)], max_iterations=3)
        data = make_data(reward=FunctionReward(rolls), filter=NoFilter(), prompts_per_draw=6)
        trainer.fit(make_module(objective=GRPO()), data, ckpt_path=ckpt_path)

    rolled = Rolls()
    fit("whole", rolled)
    with pytest.raises(Stopped):
        fit("parts", Rolls(interrupts=rolled.rolls // 3 + 5))
    assert (tmp_path / "parts" / "checkpoints" / "last").resolve().name == "iteration-0001"
    fit("parts", Rolls(), ckpt_path="last", seed=9)
    whole, parts = state_of(tmp_path / "whole"), state_of(tmp_path / "parts")
    for state in (whole, parts):
        state[0]["run"]["callbacks"].pop("Checkpoint")
    assert_same(whole, parts)


class StopsBeforeEvaluation(Callback):
    """Interrupts the run between the last update of an iteration and its evaluation."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch + 1 == self.iteration and batch_idx == 1:
            trainer._stop_request.signal = signal.SIGTERM


@pytest.mark.slow
def test_best_is_not_missed_where_a_run_stops_before_its_evaluation(tmp_path: Path) -> None:
    def callbacks() -> list[Any]:
        return [small_evaluation(every=1), Checkpoint(every=1, keep_last=9)]

    fresh_start()
    make_trainer(tmp_path / "whole", callbacks(), max_iterations=3).fit(make_module(), make_data())
    for iteration in (1, 2, 3):
        name = f"stopped-{iteration}"
        fresh_start()
        first = make_trainer(tmp_path / name, [*callbacks(), StopsBeforeEvaluation(iteration)], max_iterations=3)
        with pytest.raises(Stopped):
            first.fit(make_module(), make_data())
        resumed = make_trainer(tmp_path / name, callbacks(), max_iterations=3)
        resumed.fit(make_module(), make_data(), ckpt_path="last")
        best = [(tmp_path / run / "checkpoints" / "best").resolve().name for run in ("whole", name)]
        assert best[0] == best[1], f"stopped before the evaluation of iteration {iteration}"


class StopsAfterUpdate(Callback):
    """Interrupts the run while an update is being taken."""

    def __init__(self, update: int) -> None:
        self.update = update

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step + 1 == self.update:
            trainer._stop_request.signal = signal.SIGINT


@pytest.mark.parametrize("update", [4, 6])
def test_a_run_that_is_interrupted_between_updates_continues_exactly(update: int, tmp_path: Path) -> None:
    """Three updates an iteration: after its first and its last."""

    def fit(name: str, *callbacks: Any, ckpt_path: str | None = None, seed: int = 0) -> None:
        fresh_start(seed)
        trainer = make_trainer(tmp_path / name, [*callbacks, Checkpoint(every=9)], max_iterations=3)
        trainer.fit(make_module(), make_data(prompts_per_update=2), ckpt_path=ckpt_path)

    fit("whole")
    with pytest.raises(Stopped):
        fit("parts", StopsAfterUpdate(update))
    saved = (tmp_path / "parts" / "checkpoints" / "last").resolve().name
    assert saved == f"iteration-0001-update-{update - 3:04d}"
    fit("parts", ckpt_path="last", seed=9)
    whole, parts = state_of(tmp_path / "whole"), state_of(tmp_path / "parts")
    assert_same(whole, parts)
    rows = []
    for name in ("whole", "parts"):
        with (tmp_path / name / "metrics.csv").open(newline="") as file:
            rows.append(
                [{k: v for k, v in row.items() if v and not k.endswith(TIMING)} for row in csv.DictReader(file)]
            )
    assert rows[0] == rows[1], "the log of the resumed run differs"


class Interrupted(Callback):
    """Interrupts the evaluation of an iteration."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def on_validation_start(self, trainer: Trainer, module: Any) -> None:
        if trainer.current_epoch == self.iteration:
            trainer._stop_request.signal = signal.SIGTERM


@pytest.mark.parametrize("iteration", [0, 2])
def test_an_interrupted_evaluation_is_done_on_resume(iteration: int, tmp_path: Path) -> None:
    """The first, which is the baseline, and the last, after which the policy is exported."""

    def fit(*callbacks: Any, ckpt_path: str | None = None) -> None:
        fresh_start()
        trainer = make_trainer(tmp_path / "run", [*callbacks, *finishing_callbacks()], max_iterations=2)
        trainer.fit(make_module(), make_data(), ckpt_path=ckpt_path)

    with pytest.raises(Stopped):
        fit(Interrupted(iteration))
    assert not (tmp_path / "run" / "hf").exists()
    fit(ckpt_path="last")
    evaluations = [json.loads(line) for line in (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in evaluations] == [0, 2]
    assert (tmp_path / "run" / "hf" / "model.safetensors").exists()


def test_a_run_that_is_refused_because_another_is_in_it_touches_nothing(tmp_path: Path) -> None:
    run(tmp_path / "run", 2)
    before = contents(tmp_path)
    lock = Lock(tmp_path / "run")
    with pytest.raises(UserError, match="is in use by another process"):
        run(tmp_path / "run", 3, ckpt_path="last")
    lock.release()
    before.pop("run/.lock")
    after = contents(tmp_path)
    after.pop("run/.lock")
    assert after == before


class Figures(Callback):
    """Adds a figure of NumPy to some updates, and a state."""

    def __init__(self, state: Any = None) -> None:
        self.state = state

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> Any:
        return {"mine": np.float64(1.5)} if batch_idx == 0 else None

    def state_dict(self) -> dict[str, Any]:
        return {"state": self.state}


def test_figures_and_states_of_callbacks_can_be_saved_and_read(tmp_path: Path) -> None:
    def fit(*callbacks: Any, ckpt_path: str | None = None) -> Trainer:
        fresh_start()
        trainer = make_trainer(tmp_path / "run", [*callbacks, Checkpoint(every=9)], max_iterations=2)
        trainer.fit(make_module(), make_data(), ckpt_path=ckpt_path)
        return trainer

    with pytest.raises(Stopped):
        fit(Figures({"a": [1, torch.ones(2)]}), StopsAfterUpdate(3))
    trainer = fit(Figures(), ckpt_path="last")
    assert trainer.callback_metrics["iteration/mine"] == 1.5, "the mean over the updates that have the figure"
    with pytest.raises(PartError, match=r"Figures, state_dict\(\): returned .*; expected numbers, texts, tensors"):
        fit(Figures({"a": [np.float64(1.0)]}))


def test_other_data_are_refused_at_resume(tmp_path: Path) -> None:
    run(tmp_path / "run", 1)
    with pytest.raises(UserError, match="other training prompts \\(2000\\) than the configuration gives \\(100\\)"):
        run(tmp_path / "run", 2, ckpt_path="last", problems=[ArithmeticProblems("train", count=100)])
