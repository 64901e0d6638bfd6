"""The precision study: its measures against closed forms, its command that continues, its page made of the results."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.precision import movement as movement_module
from benchmarks.precision.learning import Arm, learning, load_spec, logged
from benchmarks.precision.measures import kl_k3, movement, seen
from benchmarks.precision.movement import LORA_VIEWS
from benchmarks.precision.movement import movement as study
from benchmarks.precision.report import PAGE, RESULTS, filled, share_of
from benchmarks.precision.results import Results, only, read_results
from benchmarks.precision.texts import read_problems
from benchmarks.precision.trajectory import Masters, Trajectory, rounded_policy
from benchmarks.precision.views import VIEWS, Viewer
from rence_lightning.errors import UserError
from rence_lightning.policy import PackedRow, Segment

SPACING = 2.0**-13
"""Distance of neighbouring bfloat16 numbers between 1/64 and 1/32."""

SHORT = {
    "policy": "embedded:arithmetic",
    "learning_rates": (1e-5,),
    "lora_learning_rates": (1e-4,),
    "seeds": (0,),
    "marks": (1, 16),
    "later_from": 16,
    "later": 2,
    "update_tokens": 16,
    "texts": 2,
    "text_tokens": 24,
}


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    file = tmp_path / "problems.jsonl"
    rows = [{"problem": f"{number}+{number % 7}=?", "answer": str(number + number % 7)} for number in range(400)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def to_bfloat16(_: str, weight: torch.Tensor) -> torch.Tensor:
    return weight.bfloat16()


def on_grid(count: int) -> torch.Tensor:
    """Numbers of bfloat16 between 1/64 and 1/32."""
    return 1 / 64 + SPACING * torch.randint(0, 127, (count,), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("step", "changed", "projection"), [(0.3, 0, 0), (0.49, 0, 0), (0.75, 1, 1 / 0.75), (1, 1, 1), (1.3, 1, 1 / 1.3)]
)
def test_a_step_of_less_than_half_a_spacing_is_not_seen(step: float, changed: float, projection: float) -> None:
    old = on_grid(1000)
    moved = movement([("weight", old, old + step * SPACING)], to_bfloat16)
    assert moved.changed == changed
    assert moved.projection == pytest.approx(projection, rel=1e-5)


def test_steps_of_weights_between_the_numbers_of_bfloat16_are_seen_on_average() -> None:
    generator = torch.Generator().manual_seed(1)
    old = on_grid(100_000) + SPACING * (torch.rand(100_000, generator=generator) - 0.5)
    moved = movement([("weight", old, old + 0.1 * SPACING)], to_bfloat16)
    assert moved.changed == pytest.approx(0.1, abs=0.01)  # each weight moves a whole spacing with probability 0.1
    assert moved.projection == pytest.approx(1, abs=0.1)


def test_stochastic_rounding_shows_a_small_step_on_average_and_common_thresholds_add_little() -> None:
    """Weights on the grid that move by a tenth of a spacing: one in ten moves a whole spacing."""
    old = on_grid(100_000)
    new = old + 0.1 * SPACING
    common, anew = VIEWS["bfloat16 stochastic"], VIEWS["bfloat16 drawn anew"]
    moved = movement([("weight", old, new)], common.cast)
    assert moved.changed == pytest.approx(0.1, abs=0.01)
    assert moved.projection == pytest.approx(1, abs=0.1)
    # From there on weights are between two numbers, and two independent roundings differ for 2 x 0.1 x 0.9 of them.
    later = [("weight", new, new + 0.01 * SPACING)]
    assert movement(later, common.cast).changed == pytest.approx(0.01, abs=0.003)
    assert movement(later, anew.cast, common.cast).changed == pytest.approx(0.11 * 0.9 + 0.89 * 0.1, abs=0.02)


def test_movement_weighs_all_weights_together() -> None:
    old = on_grid(100)
    both = movement([("a", old, old + SPACING), ("b", old, old + 0.25 * SPACING)], to_bfloat16)
    assert both.changed == 0.5
    assert both.projection == pytest.approx(1 / (1 + 0.25**2), rel=1e-4)


def test_share_and_scatter_of_hand_made_log_ratios() -> None:
    assert seen([1.0, -2.0, 0.5], [2.0, -4.0, 1.0]) == pytest.approx((0.5, 0.0))
    # A part at right angles to the true log-ratios is scatter: (1, 1) and (1, -1) times 0.3.
    assert seen([1.3, 0.7], [1.0, 1.0]) == pytest.approx((1.0, 0.3))


def test_kl_of_known_ratios() -> None:
    old, new = torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -1.0])
    by_hand = [(math.exp(log_ratio) - 1 - log_ratio) for log_ratio in (-0.5, 1.0)]
    assert kl_k3(old, new) == pytest.approx(sum(by_hand) / 2)


def test_a_copy_sees_no_step_below_half_a_spacing_and_float32_sees_it_whole() -> None:
    policy = rounded_policy("embedded:arithmetic")
    viewer = Viewer("embedded:arithmetic", PackedRow([Segment([1], [[5, 6, 7, 8]])], torch.device("cpu")))
    before = {name: viewer.log_probs(policy, view) for name, view in VIEWS.items()}
    with torch.no_grad():
        for parameter in policy.parameters():  # 2^-8 is the spacing relative to numbers just below a power of two
            parameter.mul_(1 + 0.4 * 2.0**-8)
    after = {name: viewer.log_probs(policy, view) for name, view in VIEWS.items()}
    assert torch.equal(after["bfloat16 copy"], before["bfloat16 copy"])
    true = after["float32"] - before["float32"]
    assert true.abs().max() > 1e-3
    # 0.4 of a spacing of bfloat16 is 3.2 of float16, of which 3 are seen.
    torch.testing.assert_close(after["float16 copy"] - before["float16 copy"], true, rtol=0.3, atol=5e-3)


def test_the_command_continues_where_it_was_interrupted(
    tmp_path: Path, problems: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study(problems, tmp_path / "whole", **SHORT)
    whole = read_results(tmp_path / "whole" / "movement.jsonl")
    # Each view: 0 to 0, 0 to 1, 0 to 16, 16 to 16, 16 to 18 of two trajectories. Two checks: two pairs in two views.
    # One view is only measured where pi_old is not the first policy.
    assert len(whole) == 5 * (len(VIEWS) + len(LORA_VIEWS)) - 3 + 2 * 2 * 2

    add = Results.add

    def interrupted_add(self: Results, row: dict[str, Any]) -> None:
        add(self, row)
        if len(read_results(self.path)) == 8:
            raise KeyboardInterrupt

    monkeypatch.setattr(Results, "add", interrupted_add)
    with pytest.raises(KeyboardInterrupt):
        study(problems, tmp_path / "parts", **SHORT)
    monkeypatch.setattr(Results, "add", add)
    study(problems, tmp_path / "parts", **SHORT)
    assert read_results(tmp_path / "parts" / "movement.jsonl") == whole

    monkeypatch.setattr(movement_module, "Masters", None)  # a finished study loads no policy
    study(problems, tmp_path / "parts", **SHORT)
    assert read_results(tmp_path / "parts" / "movement.jsonl") == whole

    for row in whole:
        if row["view"] == "float32" and row["old"] != row["new"]:
            assert row["movement_seen"] == pytest.approx(1)
            assert row["weights_changed"] > 0.4  # of the adapters, A does not move in the first update, where B is zero
    of_full = {"lora": False, "learning_rate": 1e-5}
    assert share_of(whole, of_full, 0, 16, "float32", "problem") == pytest.approx((1.0, 0.0), abs=1e-6)
    shares = {view: share_of(whole, of_full, 0, 1, view, "problem") for view in ("bfloat16 copy", "16-mixed")}
    assert all(share is not None for share in shares.values())
    moved = {view: only(whole, lora=False, old=0, new=1, view=view)[0]["movement_seen"] for view in shares}
    assert moved["bfloat16 copy"] < 0.2 < moved["16-mixed"]


def test_masters_that_stop_at_a_mark_are_those_that_go_on(tmp_path: Path) -> None:
    def rows(policy: object) -> Iterator[PackedRow]:
        for number in range(100):
            yield PackedRow([Segment([1], [[2 + number % 9, 3, 4 + number % 5]])], torch.device("cpu"))

    masters = [Masters(Trajectory(1e-4, 0), "embedded:arithmetic", tmp_path / str(each), rows) for each in range(2)]
    masters[0].move_to(2)
    again = Masters(Trajectory(1e-4, 0), "embedded:arithmetic", tmp_path / "0", rows)
    again.move_to(5)
    masters[1].move_to(5)
    first = masters[1].at(0)
    for name, weight in masters[1].at(5).items():
        assert torch.equal(again.at(5)[name], weight)
    assert any(not torch.equal(weight, first[name]) for name, weight in masters[1].at(5).items())
    again.move_to(2)
    assert all(torch.equal(each, again.at(2)[name]) for name, each in again.policy.named_parameters() if name in first)


def test_bad_input_is_refused(tmp_path: Path, problems: Path) -> None:
    with pytest.raises(UserError, match="ascending"):
        study(problems, tmp_path / "out", marks=(4, 1))
    with pytest.raises(UserError, match="one of the marks"):
        study(problems, tmp_path / "out", marks=(1, 4))
    nameless = tmp_path / "nameless.jsonl"
    nameless.write_text('{"question": "1+1"}\n')
    with pytest.raises(UserError, match=r"line 1: no field `problem`"):
        read_problems(nameless)
    few = tmp_path / "few.jsonl"
    few.write_text('{"problem": "1+1", "answer": "2"}\n')
    with pytest.raises(UserError, match="at least 400"):
        read_problems(few)
    spec = tmp_path / "spec.yaml"
    spec.write_text("base: conf/arithmetic.yaml\narms: [{nam: float32}]\n")
    with pytest.raises(UserError, match="nam"):
        load_spec(spec)


def test_figures_are_read_from_a_runs_log(tmp_path: Path) -> None:
    log = tmp_path / "metrics.csv"
    log.write_text("iteration,iteration/kl,iteration/movement_seen,train/kl\n1,,,0.5\n1,0.25,,\n2,,0.75,\n2,0.125,,\n")
    assert logged(log) == [{"iteration": 1, "kl": 0.25}, {"iteration": 2, "movement_seen": 0.75, "kl": 0.125}]


@pytest.mark.slow
def test_a_run_of_an_arm(tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "base: conf/arithmetic.yaml\npolicy: embedded:arithmetic\nseeds: [3]\nlearning_rate: 1.0e-5\n"
        "options: {trainer.max_iterations: 1, evaluation.limit: 20, data.prompts_per_update: 6}\n"
        "arms: [{name: bf16-mixed, options: {trainer.precision: bf16-mixed}}]\n"
    )
    learning(tmp_path / "out", spec, collect=True)
    assert read_results(tmp_path / "out" / "learning.jsonl") == []
    learning(tmp_path / "out", spec)
    (row,) = read_results(tmp_path / "out" / "learning.jsonl")
    assert (row["arm"], row["seed"], row["learning_rate"], row["evaluated"]) == ("bf16-mixed", 3, 1e-5, [0, 1])
    assert 0 < row["before"] < 1
    assert row["iterations"][0]["kl"] > 0
    config = tmp_path / "out" / "learning" / Arm("bf16-mixed").key / "lr-1e-05-test-seed-3" / "run" / "config.yaml"
    assert "precision: bf16-mixed" in config.read_text()
    written = (tmp_path / "out" / "learning.jsonl").stat().st_mtime_ns
    finished = next((tmp_path / "out" / "learning").rglob("finished.json")).stat().st_mtime_ns
    learning(tmp_path / "out", spec)
    assert (tmp_path / "out" / "learning.jsonl").stat().st_mtime_ns > written
    assert next((tmp_path / "out" / "learning").rglob("finished.json")).stat().st_mtime_ns == finished


def test_the_page_has_the_tables_of_the_results() -> None:
    movement, learning = (read_results(RESULTS / f"{name}.jsonl") for name in ("movement", "learning"))
    text = PAGE.read_text(encoding="utf-8")
    assert filled(text, movement, learning) == text
    assert text.count("<!-- table ") >= 6
    with pytest.raises(UserError, match="no table nonsense"):
        filled("<!-- table nonsense -->\n<!-- end -->", movement, learning)
