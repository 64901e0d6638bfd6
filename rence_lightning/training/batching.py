"""From the groups of an update to its forward passes: assignment to ranks, micro-batches by token budget, tensors.

The objective couples the responses of a group, so a group stays whole in a micro-batch where it fits. A group that does
not fit is cut into pieces. Their gradient stays exact, because the pieces are back-propagated with coefficients that
are computed for the whole group first.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rence_lightning.objectives import ResponseTensors, Totals
from rence_lightning.sampling.groups import Group, engine_log_probs

# ---- plans, which depend on lengths alone ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """One gradient computation.

    Attributes:
        groups: Indices of the groups, which are covered as a whole.
        pieces: Forward passes of the computation, each as a list of `(group, response)` indices. There is more than one
            only where a single group exceeds the budget.
    """

    groups: list[int]
    pieces: list[list[tuple[int, int]]]


def plan_micro_batches(lengths: Sequence[Sequence[int]], budget: int) -> list[Plan]:
    """Splits groups into forward passes of at most `budget` tokens, including padding.

    Groups of similar length share a pass, which needs little padding. A single response that is longer than the budget
    gets its own pass, because a sequence cannot be cut.

    Args:
        lengths: Number of tokens (prompt and response) of each sequence of each group.
        budget: Largest number of rows times length of the longest row, `micro_batch_tokens`.
    """
    plans: list[Plan] = []
    whole: list[int] = []
    rows = longest = 0
    for index in sorted(range(len(lengths)), key=lambda i: max(lengths[i])):
        group = lengths[index]
        if max(group) * len(group) > budget:
            plans.append(Plan([index], _cut(index, group, budget)))
            continue
        if whole and max(longest, *group) * (rows + len(group)) > budget:
            plans.append(_whole(whole, lengths))
            whole, rows, longest = [], 0, 0
        whole.append(index)
        rows, longest = rows + len(group), max(longest, *group)
    if whole:
        plans.append(_whole(whole, lengths))
    return plans


def _whole(groups: list[int], lengths: Sequence[Sequence[int]]) -> Plan:
    return Plan(groups, [[(group, response) for group in groups for response in range(len(lengths[group]))]])


def _cut(index: int, group: Sequence[int], budget: int) -> list[list[tuple[int, int]]]:
    """The pieces of one group, in the order of its responses."""
    pieces: list[list[tuple[int, int]]] = []
    longest = 0
    for response, length in enumerate(group):
        if not pieces or max(longest, length) * (len(pieces[-1]) + 1) > budget:
            pieces.append([])
            longest = 0
        pieces[-1].append((index, response))
        longest = max(longest, length)
    return pieces


def assign(weights: Sequence[int], ranks: int) -> list[list[int]]:
    """Assigns items to ranks with loads as even as greedy assignment makes them: the heaviest item first, each to the
    rank with the smallest load. It is deterministic, so that every rank computes the same assignment.

    Returns:
        The indices of the items of each rank, ascending.
    """
    assigned: list[list[int]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for item in sorted(range(len(weights)), key=lambda i: (-weights[i], i)):
        lightest = min(range(ranks), key=lambda rank: (loads[rank], len(assigned[rank]), rank))
        assigned[lightest].append(item)
        loads[lightest] += weights[item]
    return [sorted(items) for items in assigned]


def collate(
    sequences: Sequence[tuple[Sequence[int], Sequence[int]]], pad_id: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Pads (prompt, response) pairs on the right.

    Returns:
        Token ids `(rows, length)`, and a mask `(rows, length)` of bool, True on response tokens.
    """
    length = max(len(prompt) + len(response) for prompt, response in sequences)
    input_ids = torch.full((len(sequences), length), pad_id, dtype=torch.long)
    response_mask = torch.zeros(len(sequences), length, dtype=torch.bool)
    for row, (prompt, response) in enumerate(sequences):
        end = len(prompt) + len(response)
        input_ids[row, :end] = torch.tensor([*prompt, *response])
        response_mask[row, len(prompt) : end] = True
    return input_ids.to(device), response_mask.to(device)


# ---- tensors -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass.

    Attributes:
        input_ids: `(rows, length)`, prompt and response, padded on the right.
        response_mask: `(rows, length)` bool, True on response tokens.
        temperature: Sampling temperature of the responses.
        constants: Old log-probabilities, rewards and positives of the rows, if they are whole groups; their
            `log_probs` are a placeholder until the forward pass has run.
        coefficients: Derivatives dL/d log pi of each response token, `(rows, tokens)`, if the rows are a piece of a
            group whose gradient is already known; the pass then only back-propagates them.
    """

    input_ids: Tensor
    response_mask: Tensor
    temperature: float
    constants: ResponseTensors | None = None
    coefficients: Tensor | None = None

    def responses(self, log_probs: Tensor) -> ResponseTensors:
        """The whole groups with their log-probabilities `(rows, tokens)` filled in."""
        if self.constants is None:
            raise RuntimeError("this micro-batch is a piece of a group and holds no whole groups")
        return replace(self.constants, log_probs=log_probs.view_as(self.constants.old_log_probs))


@dataclass(frozen=True)
class UpdateShare:
    """The part of an update that one rank computes.

    Attributes:
        groups: Groups of the rank.
        plans: Plans of the rank's forward passes.
        passes: Number of gradient passes that *every* rank makes in this update, because all ranks must take part in
            the collectives of each; a rank with fewer passes of its own adds `idle` ones.
        scoring_passes: Number of passes without a gradient that every rank makes, for groups over the token budget.
        totals: Counts over the whole update.
    """

    groups: list[Group]
    plans: list[Plan]
    passes: int
    scoring_passes: int
    totals: Totals


def share_of_update(groups: Sequence[Group], budget: int, rank: int, world: int) -> UpdateShare:
    """Assigns an update's groups to the ranks by tokens, and plans this rank's forward passes of `budget` tokens."""
    assigned = assign([sum(group.sequence_lengths) for group in groups], world)
    plans = [plan_micro_batches([groups[i].sequence_lengths for i in indices], budget) for indices in assigned]
    scoring = [sum(len(plan.pieces) for plan in of_rank if len(plan.pieces) > 1) for of_rank in plans]
    return UpdateShare(
        groups=[groups[i] for i in assigned[rank]],
        plans=plans[rank],
        passes=max(sum(len(plan.pieces) for plan in of_rank) for of_rank in plans),
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
    """A forward pass that changes nothing, with which a rank takes part in the collectives of the other ranks."""
    input_ids, response_mask = collate([([pad_id], [pad_id])], pad_id, device)
    return MicroBatch(input_ids, response_mask, 1.0, coefficients=torch.zeros(1, 1, device=device))


def constants_of(groups: Sequence[Group], device: torch.device) -> ResponseTensors:
    """Old log-probabilities, mask, rewards, positives `(prompts, K, ...)` and seeds of whole groups."""
    rows = [old for group in groups for old in group.old_log_probs]
    engine = [engine_log_probs(rollout) for group in groups for rollout in group.rollouts]
    if len(rows) != sum(len(group.rollouts) for group in groups):
        raise RuntimeError("a group has no log-probabilities of pi_old; add the callback OldPolicySnapshot")
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
