"""Responses that a filter leaves out: they have no part in the gradient, and the log still shows them."""

import json
import signal
from itertools import compress
from pathlib import Path

import pytest
import torch
from arithmetic_run import assert_same, fresh_start, make_data, make_module, make_trainer, state_of
from hypothesis import given, settings
from hypothesis import strategies as st
from objective_groups import ALL
from test_packed_update import CUTS, MODULE, WHOLE, make_groups, update
from test_packed_update import make_module as make_tiny

from examples.drop_truncated import DropTruncated
from rence_lightning.callbacks import Callback, Checkpoint
from rence_lightning.errors import PartError, Stopped, UserError
from rence_lightning.sampling import (
    FilterDecision,
    GradedGroup,
    Group,
    Outcome,
    PositiveRatioFilter,
    PromptFilter,
)
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.trainer import Trainer
from rence_lightning.training.update import Update

KEPT = [(0, 2, 3), (0, 1, 2, 3), (1, 2)]
"""Responses of each group that are trained on: groups of three sizes in one update."""


def thinned() -> list[Group]:
    groups = make_groups()
    for group, kept in zip(groups, KEPT, strict=True):
        group.dropped = tuple(number not in kept for number in range(4))
        group.leave_out_dropped()
    return groups


@pytest.mark.parametrize("objective", ALL)
def test_the_gradient_is_that_of_the_groups_one_by_one(objective: type) -> None:
    """A batch of groups of several sizes, against each group in an update of its own with the batch's totals."""
    module, groups = make_tiny("qwen3-tied", objective), thinned()
    expected = alone(module, groups)
    for budget, world in CUTS:
        gradient, figures = update(module, groups, budget, world)
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-9)
        assert all(abs(value) < 1e6 for value in figures.values())


def alone(module: PolicyModule, groups: list[Group]) -> torch.Tensor:
    """The sum of the gradients of the groups, each as one rectangle of responses, by the objective's own contract."""
    totals = Update(groups, WHOLE).totals
    assert (totals.prompts, totals.responses) == (3, 9)
    for group in groups:
        own = Update([group], WHOLE, packed=False)
        own.totals = totals
        own.prepare(module)
        [pieces] = own.micro_batches
        own.loss(module, pieces).backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in module.policy.parameters()])
    module.zero_grad()
    return gradient


@settings(max_examples=15)
@given(st.lists(st.sets(st.integers(0, 3), min_size=2), min_size=3, max_size=3))
def test_dropped_tokens_change_nothing(kept: list[set[int]]) -> None:
    """Groups whose dropped responses have other tokens give the same gradient."""
    one, other = make_groups(), make_groups()
    for first, second, chosen in zip(one, other, kept, strict=True):
        for number in set(range(4)) - chosen:
            second.rollouts[number].token_ids[0] = 3
            second.old_log_probs[number] += 1
        for group in (first, second):
            group.dropped = tuple(number not in chosen for number in range(4))
            group.leave_out_dropped()
    torch.testing.assert_close(update(MODULE, one)[0], update(MODULE, other)[0], rtol=0, atol=0)


class EveryOther(PositiveRatioFilter):
    """Leaves the responses of even lengths out, as long as two are left."""

    def judge(self, group: GradedGroup) -> FilterDecision:
        kept = [len(response.token_ids) % 2 == 1 for response in group.responses]
        if sum(kept) < 2:
            return FilterDecision(Outcome.TOO_HARD, (False,) * group.size)
        chosen = (list(compress(each, kept)) for each in (group.responses, group.scores))
        rest = super().judge(GradedGroup(*chosen))
        positive = iter(rest.positive)
        return FilterDecision(
            rest.outcome, tuple(each and next(positive) for each in kept), tuple(not each for each in kept)
        )


class StopsAfterUpdate(Callback):
    """Interrupts the run while an update is being taken."""

    def __init__(self, update: int) -> None:
        self.update = update

    def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step + 1 == self.update:
            trainer._stop_request.signal = signal.SIGINT


def test_a_run_trains_on_the_rest_logs_all_and_resumes_between_updates(tmp_path: Path) -> None:
    def fit(name: str, *callbacks: Callback, ckpt_path: str | None = None) -> Trainer:
        fresh_start()
        data = make_data(filter=EveryOther(t_easy=0.9, t_master=1.0), prompts_per_update=2)
        trainer = make_trainer(tmp_path / name, [Checkpoint(every=100), *callbacks], max_iterations=2)
        trainer.fit(make_module(), data, ckpt_path=ckpt_path)
        return trainer

    fit("whole")
    rows = [json.loads(line) for line in (tmp_path / "whole/rollouts/iteration-0001.jsonl").read_text().splitlines()]
    kept = [response for row in rows if row["outcome"] == "kept" for response in row["responses"]]
    assert {len(row["responses"]) for row in rows} == {8}, "the log has all responses"
    assert [response.get("dropped", False) for response in kept] == [each["tokens"] % 2 == 0 for each in kept]
    with pytest.raises(Stopped):
        fit("parts", StopsAfterUpdate(4))
    assert (tmp_path / "parts/checkpoints/last").resolve().name.startswith("iteration-0001-update-")
    fit("parts", ckpt_path="last")
    assert_same(*(state_of(tmp_path / name)[0]["policy"] for name in ("whole", "parts")))


class Fixed(PromptFilter):
    def __init__(self, decision: FilterDecision) -> None:
        self.decision = decision

    def judge(self, group: GradedGroup) -> FilterDecision:
        return self.decision


YES, NO = (True,) * 8, (False,) * 8


@pytest.mark.parametrize(
    ("decision", "words"),
    [
        (FilterDecision(Outcome.KEPT, YES[:7]), "a FilterDecision with 8 positives"),
        (FilterDecision(Outcome.KEPT, NO, YES[:7]), "a FilterDecision with 8 or no values of dropped"),
        (FilterDecision(Outcome.KEPT, YES, (*NO[:7], True)), "a FilterDecision whose positives are not dropped"),
        (FilterDecision(Outcome.KEPT, NO, (*YES[:7], False)), "a kept group that leaves at least 2 responses"),
    ],
)
def test_a_decision_that_cannot_be_trained_on_is_refused(decision: FilterDecision, words: str, tmp_path: Path) -> None:
    fresh_start()
    with pytest.raises(PartError, match=rf"Fixed, judge\(\), problem arithmetic/.*: returned .*; expected .*{words}"):
        make_trainer(tmp_path / "run").fit(make_module(), make_data(filter=Fixed(decision)))


def test_definitions_of_earlier_versions_are_refused_with_the_new_ones() -> None:
    class OldReward(type(make_data().reward)):  # type: ignore[misc]
        def score(self, gold, responses):  # type: ignore[no-untyped-def]
            return []

    class OldFilter(PositiveRatioFilter):
        def judge(self, rewards, correct):  # type: ignore[no-untyped-def]
            return None

    with pytest.raises(
        UserError, match=r"data.reward: .*OldReward has score\(gold, responses\); write def score\(self, r"
    ):
        make_data(reward=OldReward())
    with pytest.raises(
        UserError, match=r"data.filter: .*OldFilter has judge\(rewards, correct\); write def judge\(self, g"
    ):
        make_data(filter=OldFilter())
    assert isinstance(make_data(filter=DropTruncated()).filter, DropTruncated)
