"""From the groups of an update to the tensors of its forward passes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rence_lightning.objectives import ResponseTensors, Totals
from rence_lightning.policy.packing import Plan, assign, collate, plan_micro_batches
from rence_lightning.sampling.groups import Group, engine_log_probs


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass.

    Attributes:
        input_ids: `(rows, length)`, prompt and response, padded on the right.
        response_mask: `(rows, length)` bool, True on response tokens.
        temperature: The responses were sampled at.
        constants: Old log-probabilities, rewards and positives of the rows, where they are whole groups (its
            `log_probs` are a placeholder until the forward pass has run).
        coefficients: `(rows, tokens)`, dL/d log pi of each response token, where the rows are a piece of a group whose
            gradient is already known; then the pass only back-propagates them.
    """

    input_ids: Tensor
    response_mask: Tensor
    temperature: float
    constants: ResponseTensors | None = None
    coefficients: Tensor | None = None

    def responses(self, log_probs: Tensor) -> ResponseTensors:
        """The whole groups with their log-probabilities `(rows, tokens)` filled in."""
        if self.constants is None:
            raise RuntimeError("a piece of a group has no groups")
        return replace(self.constants, log_probs=log_probs.view_as(self.constants.old_log_probs))


@dataclass(frozen=True)
class UpdateShare:
    """What one rank computes of an update.

    Attributes:
        groups: The rank's groups.
        plans: Their forward passes.
        passes: Gradient passes that *every* rank makes in this update, for collectives need partners; a rank with
            fewer of its own adds `idle` ones.
        scoring_passes: Likewise the passes without gradient that groups over the token budget need.
        totals: Counts over the whole update.
    """

    groups: list[Group]
    plans: list[Plan]
    passes: int
    scoring_passes: int
    totals: Totals


def share_of_update(groups: Sequence[Group], budget: int, rank: int, world: int) -> UpdateShare:
    """Deals an update's groups over the ranks by tokens, and plans this rank's forward passes of `budget` tokens."""
    hands = assign([sum(group.sequence_lengths) for group in groups], world)
    plans = [plan_micro_batches([groups[i].sequence_lengths for i in hand], budget) for hand in hands]
    scoring = [sum(len(plan.pieces) for plan in hand if len(plan.pieces) > 1) for hand in plans]
    return UpdateShare(
        groups=[groups[i] for i in hands[rank]],
        plans=plans[rank],
        passes=max(sum(len(plan.pieces) for plan in hand) for hand in plans),
        scoring_passes=max(scoring),
        totals=count(groups),
    )


def count(groups: Sequence[Group]) -> Totals:
    return Totals(
        prompts=len(groups),
        responses=sum(len(group.rollouts) for group in groups),
        tokens=sum(group.response_tokens for group in groups),
        positives=sum(sum(group.positive) for group in groups),
    )


def whole_groups(groups: Sequence[Group], pad_id: int, device: torch.device) -> MicroBatch:
    """The forward pass of whole groups."""
    piece = [(index, response) for index, group in enumerate(groups) for response in range(len(group.rollouts))]
    return replace(rows_of(groups, piece, pad_id, device), constants=constants_of(groups, device))


def rows_of(groups: Sequence[Group], piece: Sequence[tuple[int, int]], pad_id: int, device: torch.device) -> MicroBatch:
    """The forward pass of some `(group, response)` rows."""
    sequences = [groups[group].sequences[response] for group, response in piece]
    input_ids, response_mask = collate(sequences, pad_id, device)
    return MicroBatch(input_ids, response_mask, groups[piece[0][0]].temperature)


def idle(pad_id: int, device: torch.device) -> MicroBatch:
    """A forward pass that changes nothing: a rank joins in others' collectives with it."""
    input_ids, response_mask = collate([([pad_id], [pad_id])], pad_id, device)
    return MicroBatch(input_ids, response_mask, 1.0, coefficients=torch.zeros(1, 1, device=device))


def constants_of(groups: Sequence[Group], device: torch.device) -> ResponseTensors:
    """Old log-probabilities, mask, rewards, positives `(prompts, K, ...)` and seeds of whole groups."""
    rows = [old for group in groups for old in group.old_log_probs]
    engine = [engine_log_probs(rollout) for group in groups for rollout in group.rollouts]
    if len(rows) != sum(len(group.rollouts) for group in groups):
        raise RuntimeError("a group has no pi_old log-probabilities: is the OldPolicySnapshot callback missing?")
    old = pad_sequence(rows, batch_first=True)
    mask = torch.arange(old.shape[1]) < torch.tensor([len(row) for row in rows]).unsqueeze(1)
    shape = (len(groups), len(groups[0].rollouts), old.shape[1])
    return ResponseTensors(
        log_probs=old.view(shape).to(device),
        old_log_probs=old.view(shape).to(device),
        mask=mask.view(shape).to(device),
        rewards=torch.tensor([group.rewards for group in groups], device=device),
        positive=torch.tensor([group.positive for group in groups], device=device),
        seeds=tuple(group.seed for group in groups),
        engine_log_probs=pad_sequence(engine, batch_first=True).view(shape).to(device),
    )
