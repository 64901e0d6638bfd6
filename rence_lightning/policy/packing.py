"""Fitting groups into forward passes: micro-batches by token budget, and groups dealt to ranks.

A group's responses are coupled by the objective, so a group stays whole in a micro-batch where it fits. A group that
does not fit is cut into pieces; their gradient stays exact because the caller back-propagates them with coefficients
computed for the whole group first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Plan:
    """One gradient computation.

    Attributes:
        groups: Indices of the groups it covers, whole.
        pieces: Forward passes it takes: each a list of `(group, response)` indices. More than one only where a single
            group exceeds the budget.
    """

    groups: list[int]
    pieces: list[list[tuple[int, int]]]


def plan_micro_batches(lengths: Sequence[Sequence[int]], budget: int) -> list[Plan]:
    """Splits groups into forward passes of at most `budget` tokens, padding counted.

    Groups of like length go together, to pad little. A single response longer than the budget still gets a pass of its
    own: a sequence cannot be cut.

    Args:
        lengths: For each group, the tokens (prompt and response) of each of its sequences.
        budget: `micro_batch_tokens`, rows times longest row.
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
    """Pieces of one group, in the order of its responses."""
    pieces: list[list[tuple[int, int]]] = []
    longest = 0
    for response, length in enumerate(group):
        if not pieces or max(longest, length) * (len(pieces[-1]) + 1) > budget:
            pieces.append([])
            longest = 0
        pieces[-1].append((index, response))
        longest = max(longest, length)
    return pieces


def deal(weights: Sequence[int], hands: int) -> list[list[int]]:
    """Deals items to `hands` as evenly as their weights allow: heaviest first, always to the lightest hand.

    Deterministic, so that every rank computes the same deal. Returns the item indices of each hand.
    """
    dealt: list[list[int]] = [[] for _ in range(hands)]
    loads = [0] * hands
    for item in sorted(range(len(weights)), key=lambda i: (-weights[i], i)):
        lightest = min(range(hands), key=lambda hand: (loads[hand], len(dealt[hand]), hand))
        dealt[lightest].append(item)
        loads[lightest] += weights[item]
    return [sorted(hand) for hand in dealt]


def collate(
    sequences: Sequence[tuple[Sequence[int], Sequence[int]]], pad_id: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Pads (prompt, response) pairs on the right.

    Returns:
        `(rows, length)` token ids, and `(rows, length)` bool, True on response tokens.
    """
    length = max(len(prompt) + len(response) for prompt, response in sequences)
    input_ids = torch.full((len(sequences), length), pad_id, dtype=torch.long)
    response_mask = torch.zeros(len(sequences), length, dtype=torch.bool)
    for row, (prompt, response) in enumerate(sequences):
        end = len(prompt) + len(response)
        input_ids[row, :end] = torch.tensor([*prompt, *response])
        response_mask[row, len(prompt) : end] = True
    return input_ids.to(device), response_mask.to(device)
