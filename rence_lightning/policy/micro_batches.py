"""From the groups of an update to its micro-batches, by lengths alone: assignment to ranks, passes by token budget.

A group stays whole where it fits into the budget. One that does not is cut into pieces of some of its responses.
"""

from collections.abc import Sequence
from typing import NamedTuple

Shape = tuple[int, Sequence[int]]
"""Number of tokens of a prompt, and of each of its responses."""


class Piece(NamedTuple):
    """Some or all of the responses of a group.

    Attributes:
        group: Number of the group.
        responses: Numbers of the responses.
    """

    group: int
    responses: range


MicroBatch = list[Piece]
"""The pieces of one forward pass."""


def plan_micro_batches(shapes: Sequence[Shape], budget: int, packed: bool = True) -> list[MicroBatch]:
    """Divides groups into forward passes of at most `budget` tokens.

    The largest piece is placed first, each into the first micro-batch that has room for it. A single response that
    exceeds the budget together with its prompt has a micro-batch of its own, because a sequence cannot be cut.

    Args:
        shapes: Lengths of the groups.
        budget: Largest number of tokens of a forward pass, `micro_batch_tokens`.
        packed: Whether rows are packed; otherwise each response counts, with its prompt, as long as the longest.
    """
    pieces = [piece for group in range(len(shapes)) for piece in cut(shapes, group, budget, packed)]
    micro_batches: list[MicroBatch] = []
    costs = [computed_tokens(shapes, [piece], packed) for piece in pieces]
    for i in sorted(range(len(pieces)), key=lambda i: (-costs[i], i)):
        for chosen in micro_batches:
            if computed_tokens(shapes, [*chosen, pieces[i]], packed) <= budget:
                chosen.append(pieces[i])
                break
        else:
            micro_batches.append([pieces[i]])
    return micro_batches


def computed_tokens(shapes: Sequence[Shape], pieces: MicroBatch, packed: bool = True) -> int:
    """Number of tokens that the forward pass computes: a packed row has each prompt once and no padding."""
    lengths = [(shapes[group][0], [shapes[group][1][i] for i in responses]) for group, responses in pieces]
    if packed:
        return sum(prompt + sum(responses) for prompt, responses in lengths)
    longest = max(prompt + max(responses) for prompt, responses in lengths)
    return longest * sum(len(responses) for _, responses in lengths)


def cut(shapes: Sequence[Shape], group: int, budget: int, packed: bool = True) -> MicroBatch:
    """The pieces of a group, each as large as the budget allows, in the order of its responses."""
    pieces = [Piece(group, range(1))]
    for response in range(1, len(shapes[group][1])):
        longer = Piece(group, range(pieces[-1].responses.start, response + 1))
        if computed_tokens(shapes, [longer], packed) <= budget:
            pieces[-1] = longer
        else:
            pieces.append(Piece(group, range(response, response + 1)))
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
