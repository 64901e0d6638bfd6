"""Planning of forward passes: micro-batches within a token budget, and the assignment of groups to ranks.

The objective couples the responses of a group, so a group stays whole in a micro-batch where it fits. A group that does
not fit is cut into pieces. Their gradient stays exact, because the caller back-propagates them with coefficients that
are computed for the whole group first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


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
