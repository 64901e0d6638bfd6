"""The comparison with TRL: floor and rows on cases counted by hand, and both sides on little work."""

from dataclasses import replace

import pytest
from tiny_models import tiny_policy

from benchmarks.versus_trl import ours
from benchmarks.versus_trl.__main__ import compare, result_rows, versus_trl
from benchmarks.versus_trl.cases import CASES, problems
from benchmarks.versus_trl.floor import iteration_flops
from benchmarks.versus_trl.timing import IterationTime
from rence_lightning.errors import UserError
from rence_lightning.policy import Policy
from rence_lightning.sampling import RolloutDataModule

LITTLE = replace(CASES[0], prompts=4, updates=2, response_tokens=6, group_size=2)
PARTS = {"generate": 1.0, "reward": 0.5, "log-probs": 0.0, "train": 2.5}


@pytest.mark.parametrize("architecture", ["qwen3-tied", "qwen3-untied"])
def test_the_floor_counts_each_weight_once_for_each_token_that_needs_it(architecture: str) -> None:
    policy = tiny_policy(architecture)
    times = [IterationTime(1.0, PARTS, ((1, 2, 3),), 10), IterationTime(1.0, PARTS, ((1,), (2, 3, 4, 5)), 20)]
    attention = 2 * 32 * 64 + 2 * 32 * 32  # queries and outputs of 4 heads, keys and values of 2, each of 16 dimensions
    norms = 2 * (2 * 32 + 2 * 16) + 32
    layers, head = 2 * (attention + 3 * 32 * 64) + norms, 40 * 32
    assert iteration_flops(policy, times) == 8 * (layers * (4 + 15) + head * 15)


def test_rows_have_medians_spread_ratio_and_floor() -> None:
    def iteration(total: float) -> IterationTime:
        return IterationTime(total, PARTS, ((1, 2),), 30)

    times = {"TRL": [iteration(6), iteration(4), iteration(9)], "ours": [iteration(2), iteration(3), iteration(4)]}
    theirs, own = result_rows("work", times, {"TRL": 1e9, "ours": 5e8}, rate=1e9)
    parts = "1.00 | 0.50 | 0.00 | 2.50 | 2 + 30"
    assert theirs == f"| work | TRL | 6.00 (4.00 to 9.00) | {parts} | 1.00 | 1.00 s | 6.0 |"
    assert own == f"| work | ours | 3.00 (2.00 to 4.00) | {parts} | 2.00 | 0.50 s | 6.0 |"


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(UserError, match="not a multiple of --rounds 4"):
        versus_trl(iterations=10, rounds=4)
    with pytest.raises(UserError, match="no case demo; choose of demo-forced"):
        versus_trl(cases=["demo"])


def test_our_side_samples_the_problems_that_trl_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = RolloutDataModule.connect

    def with_an_end(self: RolloutDataModule, policy: Policy) -> None:
        connect(self, policy)
        policy.model.generation_config.eos_token_id = list(range(30))  # as a chat's data adds the end of a turn

    monkeypatch.setattr(RolloutDataModule, "connect", with_an_end)
    times = ours.run(LITTLE, iterations=2)
    assert [each.response_tokens for each in times] == [4 * 2 * 6] * 2
    assert all(each.total == pytest.approx(sum(each.parts.values())) for each in times)
    assert all(each.parts["generate"] > 0 and each.parts["train"] > 0 for each in times)
    tokenizer = LITTLE.load().tokenizer
    given = [tuple(tokenizer(text).input_ids) for text, _ in problems(LITTLE, 3)]
    assert [each.prompts for each in times] == [tuple(sorted(given[4:8])), tuple(sorted(given[8:12]))]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("forced", [True, False])
def test_both_sides_do_the_same_work(forced: bool) -> None:
    pytest.importorskip("trl", reason="TRL is not installed (pip install 'rence_lightning[bench]')")
    theirs, own = compare(replace(LITTLE, forced=forced), iterations=1, rounds=1)
    assert theirs.startswith("| demo-forced | TRL |") and own.startswith("| demo-forced | ours |")
    if forced:
        assert " + 48 |" in theirs and " + 48 |" in own
