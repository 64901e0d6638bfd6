"""What is sampled leaves memory once it is logged, and what a checkpoint needs of it is still found."""

import copy
import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from arithmetic_run import assert_same, fresh_start, make_module, make_trainer
from arithmetic_run import make_data as make_arithmetic
from fake_sampling import FakeEngine, Ranks, iterations, make_data

from rence_lightning.callbacks import Callback
from rence_lightning.sampling import Group, IterationBatch, Outcome
from rence_lightning.sampling.pending import pending_state, restored


class Watch(Callback):
    """Looks for the batches and groups of earlier iterations whenever a draw begins."""

    def __init__(self) -> None:
        self.batches: list[weakref.ref[IterationBatch]] = []
        self.rejected: list[weakref.ref[Group]] = []
        self.kept: list[weakref.ref[Group]] = []

    def on_draw(self, trainer: Any, module: Any, batch: IterationBatch, prompts: int, group_size: int) -> None:
        if batch.groups:
            return
        gc.collect()
        assert not any(ref() for ref in self.batches), "the batch of an earlier iteration is still there"
        last_update = trainer.datamodule.prompts_per_update  # of these groups, the loop over updates still holds one
        assert sum(ref() is not None for ref in self.kept) <= last_update

    def on_rollouts_end(self, trainer: Any, module: Any, batch: IterationBatch) -> None:
        self.batches.append(weakref.ref(batch))
        self.kept = [weakref.ref(group) for group in batch.groups]
        self.rejected = [weakref.ref(group) for group in batch.sampled if group.outcome is not Outcome.KEPT]

    def on_train_batch_start(self, trainer: Any, module: Any, batch: list[Group], batch_idx: int) -> None:
        gc.collect()
        assert self.rejected and not any(ref() for ref in self.rejected), "a rejected group is still there"
        assert trainer.batch.outcomes.total() > len(trainer.batch.groups), "its figures are lost"


def test_what_is_not_trained_on_leaves_memory(tmp_path: Path) -> None:
    fresh_start()
    watch = Watch()
    make_trainer(tmp_path / "run", [watch], max_iterations=3).fit(make_module(), make_arithmetic(prompts_per_draw=None))
    assert len(watch.batches) == 3


def batch_with_old_log_probs() -> IterationBatch:
    (batch,) = iterations(make_data(FakeEngine()), 1)
    for group in batch.groups:
        group.old_log_probs = [torch.full((len(rollout.token_ids),), -2.0) for rollout in group.rollouts]
    batch.updates_done.append({"loss": 1.0})
    return batch


def test_the_tokens_of_other_ranks_are_gathered_for_a_checkpoint() -> None:
    whole = batch_with_old_log_probs()
    expected = pending_state(whole)
    ranks = Ranks(3)
    batches = [copy.deepcopy(whole) for _ in range(3)]
    for rank, batch in enumerate(batches):
        for number, group in enumerate(batch.groups):
            lengths = [len(rollout.token_ids) for rollout in group.rollouts]
            if number % 3 != rank:
                group.drop_tokens()
            assert [len(rollout.token_ids) for rollout in group.rollouts] == lengths
    with ranks.connected(None):
        states = ranks.run(lambda rank: pending_state(batches[rank]))
    for state in states:
        assert_same(state, expected)
    prompts = {group.prompt.index: group.prompt for group in whole.groups}
    again = restored(states[0], prompts)
    assert [group.rollouts for group in again.groups] == [group.rollouts for group in whole.groups]


def test_tokens_that_are_elsewhere_cannot_be_read() -> None:
    group = batch_with_old_log_probs().groups[0]
    group.drop_tokens()
    with pytest.raises(RuntimeError, match="on the rank that trains on it"):
        list(group.rollouts[0].token_ids)
    with pytest.raises((RuntimeError, TypeError, ValueError)):
        torch.tensor(group.rollouts[0].token_ids)
