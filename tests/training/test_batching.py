"""Micro-batches and the assignment to ranks, for any group lengths."""

import itertools
from array import array

import torch
from hypothesis import given
from hypothesis import strategies as st

from rence_lightning.training.batching import assign, collate, plan_micro_batches

lengths = st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=8), max_size=10)


@given(lengths, st.integers(1, 400))
def test_every_response_is_in_one_pass_within_the_budget(groups: list[list[int]], budget: int) -> None:
    plans = plan_micro_batches(groups, budget)
    rows = [row for plan in plans for piece in plan.pieces for row in piece]
    assert sorted(rows) == [(group, response) for group, g in enumerate(groups) for response in range(len(g))]
    for plan in plans:
        for piece in plan.pieces:
            tokens = len(piece) * max(groups[group][response] for group, response in piece)
            assert tokens <= budget or len(piece) == 1, "over budget, and not for a single long response"


@given(lengths, st.integers(1, 400))
def test_groups_are_cut_only_where_they_alone_exceed_the_budget(groups: list[list[int]], budget: int) -> None:
    for plan in plan_micro_batches(groups, budget):
        if len(plan.pieces) > 1:
            (index,) = plan.groups
            assert len(groups[index]) * max(groups[index]) > budget
            assert [response for piece in plan.pieces for _, response in piece] == list(range(len(groups[index])))
        else:
            (piece,) = plan.pieces
            assert [group for group in plan.groups for _ in groups[group]] == [group for group, _ in piece]


def test_equal_groups_fill_the_budget() -> None:
    plans = plan_micro_batches([[10] * 4] * 9, budget=120)
    assert [len(plan.groups) for plan in plans] == [3, 3, 3]


def test_short_responses_of_a_cut_group_fill_the_budget() -> None:
    """A long response must not count as the padding of those after it."""
    (plan,) = plan_micro_batches([[100, 10, 10, 10, 10, 10, 10]], budget=100)
    assert plan.pieces == [[(0, 0)], [(0, response) for response in range(1, 7)]]


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


@given(
    st.lists(st.tuples(st.lists(st.integers(2, 9), min_size=1), st.lists(st.integers(2, 9))), min_size=1, max_size=5)
)
def test_collate_pads_on_the_right_and_marks_responses(sequences: list[tuple[list[int], list[int]]]) -> None:
    input_ids, mask = collate(sequences, 0, torch.device("cpu"))
    assert input_ids.shape == mask.shape == (len(sequences), max(len(x) + len(y) for x, y in sequences))
    arrays = [(tuple(prompt), array("i", response)) for prompt, response in sequences]  # as a group holds them
    for tensor, same in zip((input_ids, mask), collate(arrays, 0, torch.device("cpu")), strict=True):
        assert torch.equal(tensor, same)
    for row, marks, (prompt, response) in zip(input_ids.tolist(), mask.tolist(), sequences, strict=True):
        assert row == prompt + response + [0] * (len(row) - len(prompt) - len(response))
        assert [token for token, mark in zip(row, marks, strict=True) if mark] == response
        assert not any(marks[: len(prompt)])
