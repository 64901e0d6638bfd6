"""Micro-batches and the deal over ranks, for any group lengths."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from rence_lightning.policy.packing import collate, deal, plan_micro_batches

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


@given(st.lists(st.integers(1, 1000), max_size=30), st.integers(1, 8))
def test_a_deal_is_a_fair_partition(weights: list[int], hands: int) -> None:
    dealt = deal(weights, hands)
    assert sorted(item for hand in dealt for item in hand) == list(range(len(weights)))
    assert dealt == deal(weights, hands)
    loads = [sum(weights[item] for item in hand) for hand in dealt]
    # Greedy dealing: the heaviest hand was the lightest before its last item.
    assert max(loads) <= sum(weights) / hands + max(weights, default=0)
    if len(weights) >= hands:
        assert all(dealt), "a rank went empty-handed although there are groups enough"


@given(
    st.lists(st.tuples(st.lists(st.integers(2, 9), min_size=1), st.lists(st.integers(2, 9))), min_size=1, max_size=5)
)
def test_collate_pads_on_the_right_and_marks_responses(sequences: list[tuple[list[int], list[int]]]) -> None:
    input_ids, mask = collate(sequences, 0, torch.device("cpu"))
    for row, marks, (prompt, response) in zip(input_ids.tolist(), mask.tolist(), sequences, strict=True):
        assert row == prompt + response + [0] * (len(row) - len(prompt) - len(response))
        assert [token for token, mark in zip(row, marks, strict=True) if mark] == response
        assert not any(marks[: len(prompt)])
