"""Failures of the disk or of a part that a user has written: the message is clear and no training is lost."""

import resource
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from arithmetic_run import fresh_start, make_data, make_module, make_trainer
from lightning.fabric.strategies import ModelParallelStrategy
from torch import Tensor

from rence_lightning.callbacks import Callback, Checkpoint, Progress, standard_callbacks
from rence_lightning.errors import CheckpointError, PartError, UserError, explanation
from rence_lightning.objectives import MultiLabelNCE, ResponseTensors, Totals
from rence_lightning.rewards import Response, Reward, Score
from rence_lightning.rollouts import FinishedGroup, Request, SamplingStep, TransformersEngine
from rence_lightning.run.lock import Lock
from rence_lightning.sampling import FilterDecision, GradedGroup, Group, Outcome, PositiveRatioFilter
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.trainer import Trainer


class BadReward(Reward):
    """Takes every fourth response as correct, and fails in the given way after some calls."""

    def __init__(self, fault: Callable[[int], Any], after: int) -> None:
        self.fault, self.after, self.calls = fault, after, 0

    def score(self, responses: Sequence[Response]) -> list[Score]:
        self.calls += 1
        if self.calls > self.after:
            return self.fault(len(responses))  # type: ignore[no-any-return]
        return [Score(float(i % 4 == 0), i % 4 == 0, "1") for i in range(len(responses))]


def raise_key_error(_: int) -> None:
    raise KeyError("colour")


REWARDS: list[tuple[Callable[[int], Any], str]] = [
    (lambda n: [Score(1.0, True, "1")] * (n - 1), "returned .*; expected a list of 8 Score, one per response"),
    (lambda n: [1.0] * n, "returned .*; expected a list of 8 Score, one per response"),
    (lambda n: None, "returned None; expected a list of 8 Score"),
    (lambda n: [Score(float("nan"), False, "1")] * n, "returned nan; expected a reward from 0 to 1"),
    (lambda n: [Score(-0.1, False, "1")] * n, "returned -0.1; expected a reward from 0 to 1"),
    (lambda n: [Score("1", True, "1")] * n, "returned '1'; expected a reward from 0 to 1"),
    (lambda n: [Score(1.0, True, 42)] * n, "returned 42; expected an answer that is text, or None"),
    (lambda n: [Score(1.0, True, "1", {"a": float("nan")})] * n, "returned .*; expected parts that are finite numbers"),
]


@pytest.mark.parametrize(("fault", "words"), REWARDS)
def test_a_reward_that_returns_something_else_is_named(fault: Callable[[int], Any], words: str, tmp_path: Path) -> None:
    fresh_start()
    with pytest.raises(PartError, match=rf"test_failures.BadReward, score\(\), problem arithmetic.*: {words}"):
        make_trainer(tmp_path / "run").fit(make_module(), make_data(reward=BadReward(fault, after=0)))


def test_after_a_reward_that_fails_nothing_is_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fresh_start()
    trainer = make_trainer(tmp_path / "run", [Progress(), Checkpoint(every=100)], max_iterations=4)
    with pytest.raises(PartError, match="raised KeyError: 'colour'") as caught:
        trainer.fit(make_module(), make_data(reward=BadReward(raise_key_error, after=20)))
    text = explanation(caught.value)
    assert text.startswith("error: test_failures.BadReward") and 'raise KeyError("colour")' in text
    assert "grading.py" not in text, "the traceback is that of their own code"
    done = trainer.current_epoch
    assert done > 0 and (tmp_path / "run" / "checkpoints" / "last").resolve().name == f"iteration-{done:04d}"
    advice = f"iteration-{done:04d}: once this is fixed, continue with --ckpt_path {tmp_path / 'run'}"
    assert text.splitlines()[0].endswith(f"'colour'; the last checkpoint is {advice}"), "the cause first"
    assert "--ckpt_path" not in capsys.readouterr().out
    resumed = make_trainer(tmp_path / "run", [Checkpoint(every=100)], max_iterations=done + 1)
    resumed.fit(make_module(), make_data(reward=BadReward(raise_key_error, after=10**6)), ckpt_path="last")


class BadFilter(PositiveRatioFilter):
    def judge(self, group: GradedGroup) -> FilterDecision:
        return FilterDecision(Outcome.KEPT, (True, False))


class BadEngine(TransformersEngine):
    """Passes on what it samples with a fault in each step."""

    def __init__(self, fault: Callable[[SamplingStep], Any]) -> None:
        super().__init__()
        self.fault = fault

    def generate(self, requests: Iterable[Request], cancelled: Container[int] = ()) -> Iterator[SamplingStep]:
        for step in super().generate(requests, cancelled):
            yield self.fault(step)


def with_groups(change: Callable[[list[FinishedGroup]], Any]) -> Callable[[SamplingStep], SamplingStep]:
    """A fault in the groups that a step has finished."""
    return lambda step: replace(step, finished=change(step.finished))


class BadObjective(MultiLabelNCE):
    def contrast(self, scores: Tensor, responses: ResponseTensors) -> Tensor:
        return scores["nonsense"]  # type: ignore[index]


class BadCallback(Callback):
    def on_train_epoch_end(self, trainer: Trainer, module: PolicyModule) -> None:
        raise ZeroDivisionError("their own mistake")


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (
            {"filter": BadFilter()},
            r"BadFilter, judge\(\), problem .*: returned FilterDec.*; expected .* 8 positives",
        ),
        (
            {"engine": BadEngine(with_groups(lambda groups: []))},
            r"BadEngine, generate\(\): .*expected the responses to all problems before it ends; those to problem arith",
        ),
        (
            {"engine": BadEngine(with_groups(lambda groups: groups * 2))},
            r"BadEngine, generate\(\): returned FinishedGroup.*; expected .* for each request that it has taken, once",
        ),
        (
            {"engine": BadEngine(with_groups(lambda groups: [replace(group, index=99) for group in groups]))},
            r"BadEngine, generate\(\): returned FinishedGroup\(index=99.*; expected .* for each request that it has",
        ),
        (
            {"engine": BadEngine(with_groups(lambda g: [replace(each, rollouts=each.rollouts[:-1]) for each in g]))},
            r"BadEngine, generate\(\), problem arithmetic.*; expected a list of 8 rollouts",
        ),
        ({"engine": BadEngine(lambda step: step.finished)}, r"BadEngine, .*expected an iterator of SamplingStep"),
        ({"engine": BadEngine(lambda step: 1 / 0)}, r"BadEngine, generate\(\): raised ZeroDivisionError"),
        ({"objective": BadObjective()}, r"BadObjective, loss\(\): raised "),
        (
            {"callback": BadCallback()},
            r"BadCallback, on_train_epoch_end\(\): raised ZeroDivisionError: their own",
        ),
    ],
)
def test_a_part_that_fails_is_named_and_the_state_is_saved(part: dict[str, Any], words: str, tmp_path: Path) -> None:
    fresh_start()
    callbacks = [*([part["callback"]] if "callback" in part else []), Checkpoint(every=100)]
    trainer = make_trainer(tmp_path / "run", callbacks, max_iterations=4)
    module = make_module(**{key: value for key, value in part.items() if key == "objective"})
    data = make_data(**{key: value for key, value in part.items() if key in ("filter", "engine")})
    with pytest.raises(PartError, match=words):
        trainer.fit(module, data)
    expected = "iteration-0001" if "callback" in part else "iteration-0000"
    assert (tmp_path / "run" / "checkpoints" / "last").resolve().name == expected


class FailsAfterUpdate(Callback):
    def on_train_batch_end(
        self, trainer: Trainer, module: PolicyModule, outputs: dict[str, Any], batch: list[Group], batch_idx: int
    ) -> None:
        if trainer.global_step == 4:
            raise OSError("no such file")


def test_an_update_counts_although_a_callback_fails_after_it(tmp_path: Path) -> None:
    fresh_start()
    trainer = make_trainer(tmp_path / "run", [FailsAfterUpdate(), Checkpoint(every=100)], max_iterations=4)
    with pytest.raises(PartError, match="FailsAfterUpdate"):
        trainer.fit(make_module(), make_data())
    assert (tmp_path / "run" / "checkpoints" / "last").resolve().name == "iteration-0001-update-0002"


class FailsAtTheEnd(Callback):
    """Fails when it is told of the failure of another, and when it is taken down."""

    def on_exception(self, trainer: Trainer, module: PolicyModule, exception: BaseException) -> None:
        raise ValueError("in on_exception")

    def teardown(self, trainer: Trainer, module: PolicyModule, stage: str) -> None:
        raise ValueError("in teardown")


def test_one_callback_does_not_keep_another_from_saving(tmp_path: Path) -> None:
    fresh_start()
    callbacks = [BadCallback(), FailsAtTheEnd(), Checkpoint(every=100)]
    with pytest.raises(PartError, match="BadCallback") as caught:
        make_trainer(tmp_path / "run", callbacks, max_iterations=4).fit(make_module(), make_data())
    assert "in on_exception" in explanation(caught.value) and "in teardown" in explanation(caught.value)
    assert (tmp_path / "run" / "checkpoints" / "last").resolve().name == "iteration-0001"
    Lock(tmp_path / "run").release()  # the run let go of its directory


def test_a_trainer_runs_once(tmp_path: Path) -> None:
    fresh_start()
    trainer = make_trainer(tmp_path / "run", max_iterations=1)
    trainer.fit(make_module(), make_data())
    with pytest.raises(UserError, match="a Trainer runs once"):
        trainer.fit(make_module(), make_data())


def test_the_standard_callbacks_are_those_that_a_run_needs(tmp_path: Path) -> None:
    fresh_start()
    settings = {"accelerator": "cpu", "devices": 1, "max_iterations": 1}
    trainer = Trainer(run_dir=str(tmp_path / "run"), callbacks=standard_callbacks(), **settings)  # type: ignore[arg-type]
    trainer.fit(make_module(), make_data())
    assert (tmp_path / "run" / "hf" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"strategy": "fsdp", "accelerator": "cpu"}, "fsdp"),
        (
            {"strategy": ModelParallelStrategy(lambda module, mesh: module), "devices": 2},
            "use auto, ddp or rence_lightning.training.FullyShard",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Trainer(**{"accelerator": "cpu", "callbacks": [], **settings})


class FullDisk(Callback):
    """Limits files to 100 kB from some iteration on, so that writing a checkpoint fails in the middle."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def on_train_epoch_end(self, trainer: Trainer, module: PolicyModule) -> None:
        if trainer.current_epoch == self.iteration:
            limit_files(100_000)


def limit_files(size: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    fresh_start()
    callbacks = [FullDisk(2), Checkpoint(every=1)]
    trainer = make_trainer(tmp_path / "run", callbacks, max_iterations=3)
    try:
        with pytest.raises(
            CheckpointError, match=r"iteration-0002: .*File too large \(.*; earlier ones .*: continue with"
        ):
            trainer.fit(make_module(), make_data())
    finally:
        limit_files(resource.RLIM_INFINITY)
    checkpoints = tmp_path / "run" / "checkpoints"
    assert {path.name for path in checkpoints.iterdir()} == {"iteration-0001", "last"}, "an incomplete one is left"
    fresh_start()
    resumed = make_trainer(tmp_path / "run", [Checkpoint(every=1)], max_iterations=3)
    resumed.fit(make_module(), make_data(), ckpt_path="last")
    assert (checkpoints / "last").resolve().name == "iteration-0003"


def detached(responses: ResponseTensors, totals: Totals) -> Any:
    return responses.log_probs.sum().detach()


@pytest.mark.parametrize(
    ("method", "function", "words"),
    [
        (
            "contrast",
            lambda scores, responses: scores.mean(),
            r"contrast\(\): returned .*; expected a loss for each of",
        ),
        ("contrast", lambda scores, responses: -scores, r"contrast\(\): returned .*; expected a loss for each of"),
        ("loss", detached, r"loss\(\): returned .*; expected a scalar that depends on responses.log_probs"),
        ("loss", lambda responses, totals: responses.log_probs.sum((1, 2)), r"loss\(\): .*; expected a scalar"),
        ("loss", lambda responses, totals: 1.0, r"loss\(\): returned 1.0; expected a scalar"),
        ("loss", lambda responses, totals: None, r"loss\(\): returned None; expected a scalar"),
    ],
)
def test_an_objective_that_returns_something_else_is_named(
    method: str, function: Callable[..., Any], words: str, tmp_path: Path
) -> None:
    class Own(MultiLabelNCE):
        pass

    setattr(Own, method, staticmethod(function))
    fresh_start()
    with pytest.raises(PartError, match=rf"Own, {words}"):
        make_trainer(tmp_path / "run").fit(make_module(objective=Own()), make_data())
