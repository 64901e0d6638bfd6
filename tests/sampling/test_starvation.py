"""Iterations that do not find as many groups as they need."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from arithmetic_run import fresh_start, make_data, make_module, make_trainer

from rence_lightning.callbacks import Checkpoint, ExportPolicy, Progress
from rence_lightning.errors import StarvationError, UserError
from rence_lightning.objectives import GRPO
from rence_lightning.prompts import ArithmeticProblems
from rence_lightning.report.run_record import RunRecord
from rence_lightning.rewards import Response, Reward, Score
from rence_lightning.rollouts import Sampling
from rence_lightning.sampling import NoFilter, PositiveRatioFilter
from rence_lightning.sampling.datamodule import RolloutDataModule
from rence_lightning.training.trainer import Trainer

CORRECT, WRONG = Score(1.0, True, "1"), Score(0.1, False, "2")


class Fixed(Reward):
    """Gives every group the same verdicts or, with `solvable`, only the groups whose answer is in it."""

    def __init__(self, verdicts: str, solvable: set[str] | None = None) -> None:
        self.verdicts = verdicts
        self.solvable = solvable

    def score(self, responses: Sequence[Response]) -> list[Score]:
        scores = []
        for index, response in enumerate(responses):
            solvable = self.solvable is None or response.problem.answer in self.solvable
            right = solvable and self.verdicts[index % len(self.verdicts)] == "1"
            scores.append(CORRECT if right else WRONG)
        return scores


def fit(run_dir: Path, data: RolloutDataModule, iterations: int = 3) -> Trainer:
    fresh_start()
    trainer = make_trainer(run_dir, [Progress()], max_iterations=iterations)
    trainer.fit(make_module(), data)
    return trainer


def problems(count: int) -> list[ArithmeticProblems]:
    return [ArithmeticProblems("train", count=count)]


def test_a_mastered_pool_ends_the_run_cleanly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = fit(tmp_path / "run", make_data(problems=problems(12), reward=Fixed("11111111")))
    assert trainer.datamodule.pool.left == 0
    assert trainer.current_epoch == 1, "the iteration that mastered the last prompt is the last"
    assert trainer.global_step == 0, "there was nothing to train on"
    assert "every training prompt is mastered" in capsys.readouterr().out


def test_nothing_correct_is_an_error_with_counts_and_three_samples(tmp_path: Path) -> None:
    with pytest.raises(StarvationError, match=r"12 too hard, 0 too easy, 0 mastered; 12 prompts") as caught:
        fit(tmp_path / "run", make_data(problems=problems(12), reward=Fixed("00000000")))
    message = str(caught.value)
    assert "none of the 12 sampled groups" in message and "\n" not in message and message.count(" -> ") == 3
    assert "to teach it solutions first: warmup, with the configuration of fit" in message
    rows = [json.loads(line) for line in (tmp_path / "run/rollouts/iteration-0001.jsonl").read_text().splitlines()]
    assert [row["outcome"] for row in rows] == ["too_hard"] * 12, "a starved iteration must be logged like any other"
    for row in rows[:3]:
        assert f"{row['problem']!r} (answer {row['gold']!r}) -> {row['responses'][0]['text'][:40]!r}"[:-1] in message


def test_a_first_iteration_without_a_correct_response_warns_and_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Lengths(Fixed):
        """Partial credit by length, never correct."""

        def score(self, responses: Sequence[Response]) -> list[Score]:
            return [Score(min(1.0, len(response.token_ids) / 100), False) for response in responses]

    filter = PositiveRatioFilter(t_easy=0.99, t_master=1.0, positives="best")
    trainer = fit(tmp_path / "run", make_data(reward=Lengths(""), filter=filter), iterations=2)
    assert trainer.current_epoch == 2
    warnings = [record.getMessage() for record in caplog.records if "no response was correct" in record.getMessage()]
    assert len(warnings) == 1 and warnings[0].startswith(
        "iteration 1: no response was correct (the highest reward was 0."
    )


def test_equal_rewards_are_nothing_to_learn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Constant(Fixed):
        def score(self, responses: Sequence[Response]) -> list[Score]:
            return [Score(0.1 + 1e-9 * index, False) for index in range(len(responses))]

    for reward, warned in ((Constant(""), True), (Fixed("01"), False)):
        caplog.clear()
        fresh_start()
        trainer = make_trainer(tmp_path / str(warned), [Progress()], max_iterations=1)
        trainer.fit(make_module(objective=GRPO()), make_data(reward=reward, filter=NoFilter()))
        assert ("nothing to learn, because all responses to each problem have equal rewards" in caplog.text) is warned
        figures = RunRecord(tmp_path / str(warned)).values("iteration/grad_norm")
        assert all((value == 0) is warned for value in figures), figures


def test_a_pool_that_is_mostly_mastered_ends_the_run_with_all_its_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of twelve problems two are never solved: they do not undo what was learned."""
    given = ArithmeticProblems("train", count=12).load()
    counts = [problem.answer for problem in given]
    never = {answer for answer in counts if counts.count(answer) == 1}
    hard = set(sorted(never)[:2])

    class AllBut(Fixed):
        def score(self, responses: Sequence[Response]) -> list[Score]:
            return [WRONG if response.problem.answer in hard else CORRECT for response in responses]

    fresh_start()
    trainer = make_trainer(tmp_path / "run", [Progress(), ExportPolicy()], max_iterations=9)
    trainer.fit(make_module(), make_data(problems=problems(12), reward=AllBut("")))
    assert trainer.datamodule.pool.left == 2 and trainer.current_epoch == 1
    assert (tmp_path / "run" / "hf" / "model.safetensors").exists()
    [warning] = [each.getMessage() for each in caplog.records if "the run ends here" in each.getMessage()]
    assert "2 too hard, 0 too easy, 10 mastered; 2 prompts are left in the pool, and 10 are mastered" in warning


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"problems": problems(12), "reward": Fixed("11111100")}, "0 too hard, 12 too easy, 0 mastered"),
        ({"reward": Fixed("00000000"), "max_draws_per_iteration": 3}, "none of the 24 sampled groups"),
    ],
)
def test_too_easy_and_too_many_draws_are_errors_with_counts(
    settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(StarvationError, match=words):
        fit(tmp_path / "run", make_data(**settings))


def test_a_partial_batch_is_trained_on_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = [problem.answer for problem in ArithmeticProblems("train", count=12).load()]
    solvable = {answer for answer in answers if answers.count(answer) == 1}
    chosen = set(sorted(solvable)[:4])
    trainer = fit(tmp_path / "run", make_data(problems=problems(12), reward=Fixed("11000000", chosen)), iterations=1)
    assert trainer.callback_metrics["rollouts/groups_trained"] == 4
    # Four groups of at most three are two updates of two, not of three and one.
    assert trainer.global_step == 2
    assert "only 4 of 6 groups were kept of 12 sampled" in capsys.readouterr().out


def test_the_loss_of_a_partial_update_is_a_mean_over_its_groups(tmp_path: Path) -> None:
    """At pi_old, where every group has 2 positives and 6 negatives of margin 0.9, the loss is known in closed form."""
    answers = {problem.answer for problem in ArithmeticProblems("train", count=12).load()}
    chosen = set(sorted(answers)[:3])
    data = make_data(problems=problems(12), reward=Fixed("11000000", chosen), prompts_per_update=6)
    trainer = fit(tmp_path / "run", data, iterations=1)
    expected = torch.log1p(6 * torch.tensor(0.5 * 0.9).exp())
    assert trainer.callback_metrics["iteration/objective"] == pytest.approx(expected.item(), abs=1e-5)


def test_prompts_that_were_not_needed_are_sampled_anew_first_thing(tmp_path: Path) -> None:
    """Each draw has eight prompts, of which the batch needs six, because all groups are kept."""
    trainer = fit(tmp_path / "run", make_data(reward=Fixed("11000000")), iterations=3)
    same = make_data(reward=Fixed("11000000"))
    same.connect(trainer.lightning_module.policy)
    same.setup("fit")
    same.pool.start_iteration()
    order = [same.prompts[index].problem.id for index in same.pool.draw(18)]
    logs = [(tmp_path / f"run/rollouts/iteration-000{i}.jsonl").read_text().splitlines() for i in (1, 2, 3)]
    logged = [json.loads(line)["id"] for log in logs for line in log]
    assert logged == order, "no prompt is passed over, or logged where it does not count"
    assert trainer.callback_metrics["rollouts/groups_sampled"] == 6
    assert trainer.callback_metrics["rollouts/prompts_cached"] == 2
    assert trainer.datamodule.responses_total == 18 * 8


def test_a_starved_run_keeps_what_it_learned(tmp_path: Path) -> None:
    class OnlyOnce(Fixed):
        def score(self, responses: Sequence[Response]) -> list[Score]:
            scores = super().score(responses)
            self.verdicts = "00000000"
            return scores

    fresh_start()
    trainer = make_trainer(tmp_path / "run", [Checkpoint(every=100)], max_iterations=3)
    with pytest.raises(StarvationError, match="iteration 2: none of the"):
        trainer.fit(make_module(), make_data(reward=OnlyOnce("11000000")))
    assert (tmp_path / "run" / "checkpoints" / "last").resolve().name == "iteration-0001"


def test_training_at_temperature_zero_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no contrast"):
        fit(tmp_path / "run", make_data(sampling=Sampling(temperature=0.0, max_response_tokens=64)))
