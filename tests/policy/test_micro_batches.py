"""Rows by token budget, and the assignment to ranks, for any group lengths."""

import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st

from rence_lightning.policy import PackedRow, Segment
from rence_lightning.policy.micro_batches import Piece, Shape, assign, computed_tokens, plan_micro_batches

shapes = st.lists(
    st.tuples(st.integers(1, 30), st.lists(st.integers(1, 60), min_size=1, max_size=8)), min_size=1, max_size=10
)


@given(shapes, st.integers(1, 400), st.booleans())
def test_every_response_is_in_one_row_within_the_budget(shapes: list[Shape], budget: int, packed: bool) -> None:
    rows = plan_micro_batches(shapes, budget, packed)
    places = [(piece.group, response) for row in rows for piece in row for response in piece.responses]
    assert sorted(places) == [
        (i, response) for i, (_, lengths) in enumerate(shapes) for response in range(len(lengths))
    ]
    for row in rows:
        single = [piece for piece in row if len(piece.responses) == 1]
        assert computed_tokens(shapes, row, packed) <= budget or len(row) == len(single) == 1


@given(shapes, st.integers(1, 400), st.booleans())
def test_groups_are_cut_only_where_they_alone_exceed_the_budget(shapes: list[Shape], budget: int, packed: bool) -> None:
    pieces = [piece for row in plan_micro_batches(shapes, budget, packed) for piece in row]
    for group, (_, lengths) in enumerate(shapes):
        parts = [piece for piece in pieces if piece.group == group]
        whole = computed_tokens(shapes, [Piece(group, range(len(lengths)))], packed)
        assert (len(parts) == 1) == (whole <= budget or len(lengths) == 1)


@given(shapes)
def test_computed_tokens_are_those_of_the_rows_that_are_built(shapes: list[Shape]) -> None:
    segments = [Segment([5] * prompt, [[6] * length for length in lengths]) for prompt, lengths in shapes]
    row = PackedRow(segments, torch.device("cpu"))
    pieces = [Piece(group, range(len(lengths))) for group, (_, lengths) in enumerate(shapes)]
    assert computed_tokens(shapes, pieces) == row.input_ids.numel()
    assert computed_tokens(shapes, pieces, packed=False) == row.padded().input_ids.numel()


@given(shapes, st.integers(300, 1000))
def test_rows_are_few(shapes: list[Shape], budget: int) -> None:
    """First fit leaves at most one row less than half full."""
    rows = plan_micro_batches(shapes, budget)
    if all(computed_tokens(shapes, [Piece(i, range(len(x)))]) <= budget for i, (_, x) in enumerate(shapes)):
        assert sum(2 * computed_tokens(shapes, row) <= budget for row in rows) <= 1
        assert sum(computed_tokens(shapes, row) for row in rows) == sum(p + sum(lengths) for p, lengths in shapes)


def test_equal_groups_fill_the_budget() -> None:
    assert [len(row) for row in plan_micro_batches([(4, [9] * 4)] * 9, budget=120)] == [3, 3, 3]


def test_short_responses_of_a_cut_group_fill_the_budget() -> None:
    rows = plan_micro_batches([(0, [100, 10, 10, 10, 10, 10, 10])], budget=100)
    assert rows == [[Piece(0, range(1))], [Piece(0, range(1, 7))]]


@given(st.lists(st.integers(1, 100), min_size=1, max_size=6), st.integers(1, 3))
def test_an_assignment_is_within_a_third_of_the_best_one(weights: list[int], ranks: int) -> None:
    """Graham's bound for heaviest first, against every possible assignment."""
    best = min(
        max(sum(w for w, rank in zip(weights, choice, strict=True) if rank == r) for r in range(ranks))
        for choice in itertools.product(range(ranks), repeat=len(weights))
    )
    heaviest = max(sum(weights[item] for item in items) for items in assign(weights, ranks))
    assert 3 * heaviest * ranks <= (4 * ranks - 1) * best


@given(st.lists(st.integers(1, 1000), max_size=30), st.integers(1, 8))
def test_an_assignment_is_a_fair_partition(weights: list[int], ranks: int) -> None:
    assigned = assign(weights, ranks)
    assert sorted(item for items in assigned for item in items) == list(range(len(weights)))
    assert assigned == assign(weights, ranks)
    loads = [sum(weights[item] for item in items) for items in assigned]
    # The rank with the largest load had the smallest one before its last item.
    assert max(loads) <= sum(weights) / ranks + max(weights, default=0)
    if len(weights) >= ranks:
        assert all(assigned), "a rank has no group although there are groups enough"
