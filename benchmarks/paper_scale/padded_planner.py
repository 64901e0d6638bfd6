"""The planner before packed rows, as the baseline: padded rows, and cut groups that are always scored first."""

from collections.abc import Sequence

from rence_lightning.training.batching import Shape


def padded_passes(shapes: Sequence[Shape], budget: int) -> tuple[list[int], int]:
    """Tokens of each gradient pass with padding, and tokens of all scoring passes.

    Groups are taken by their longest response; each pass holds whole groups, or a piece of one that exceeds the budget.
    """
    passes: list[int] = []
    scored = rows = longest = 0
    sequences = [[prompt + response for response in responses] for prompt, responses in shapes]
    for group in sorted(sequences, key=max):
        if max(group) * len(group) > budget:
            pieces = _pieces(group, budget)
            passes += pieces
            scored += sum(pieces)
            continue
        if rows and max(longest, *group) * (rows + len(group)) > budget:
            passes.append(rows * longest)
            rows = longest = 0
        rows, longest = rows + len(group), max(longest, *group)
    return [*passes, rows * longest] if rows else passes, scored


def _pieces(group: Sequence[int], budget: int) -> list[int]:
    pieces: list[int] = []
    rows = longest = 0
    for length in group:
        if rows and max(longest, length) * (rows + 1) > budget:
            pieces.append(rows * longest)
            rows = longest = 0
        rows, longest = rows + 1, max(longest, length)
    return [*pieces, rows * longest]
