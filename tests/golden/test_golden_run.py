"""The golden run: a change of one line of an objective, the pool's order, the filter or the sampler is seen."""

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comparing import REWRITE, environment, first_difference, read_golden
from recording import ITERATIONS, Record, record_run
from transformers.models.qwen3 import modeling_qwen3

from rence_lightning.objectives import nce
from rence_lightning.rollouts import slots
from rence_lightning.sampling.curriculum import filtering, pool

GOLDEN = read_golden()
SAME_ENVIRONMENT = GOLDEN["environment"] == environment()
HINT = f"if the change is meant, rewrite the golden file with `{REWRITE}` and say in the commit why it changed"

Change = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Record:
    return record_run(tmp_path_factory.mktemp("golden") / "run")


def test_the_demo_gives_the_figures_of_the_golden_run(found: Record) -> None:
    assert len(found["iterations"]) == ITERATIONS
    difference = first_difference(GOLDEN["run"], found, exact=SAME_ENVIRONMENT)
    how = "to the bit" if SAME_ENVIRONMENT else "to a tolerance, because this is another environment"
    assert not difference, f"{difference} (compared {how}); {HINT}"


def test_an_update_takes_the_memory_of_the_golden_run(found: Record) -> None:
    change = found["memory"] / GOLDEN["run"]["memory"] - 1
    assert abs(change) <= 0.01, f"an update takes {found['memory']:,} bytes, {change:+.1%} of the golden run's; {HINT}"


def change_objective(monkeypatch: pytest.MonkeyPatch) -> None:
    """The denominator of Softmax, in place of Eq. (1)."""
    monkeypatch.setattr(nce, "multi_label_nce", nce.softmax_contrast)


def change_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sign of the margin."""
    margin = nce.reward_margin
    monkeypatch.setattr(nce, "reward_margin", lambda *arguments: -margin(*arguments))


def change_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another random stream for the order of the prompts."""
    draw = random.Random
    monkeypatch.setattr(pool.random, "Random", lambda name: draw(f"{name}!"))


def change_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other random numbers for the responses."""
    numbers = slots.uniforms
    monkeypatch.setattr(slots, "uniforms", lambda seed, *sizes: numbers(seed + 1, *sizes))


def change_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    """rho < t_easy in place of rho <= t_easy."""
    judged = filtering.PositiveRatioFilter._outcome

    def strict(self: Any, positive: int, correct: int, responses: int) -> filtering.Outcome:
        outcome = judged(self, positive, correct, responses)
        at_limit = outcome is filtering.Outcome.KEPT and positive / responses == self.t_easy
        return filtering.Outcome.TOO_EASY if at_limit else outcome

    monkeypatch.setattr(filtering.PositiveRatioFilter, "_outcome", strict)


def change_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts that were sampled and not needed are lost."""
    monkeypatch.setattr(pool.PromptPool, "cache", lambda self, indices: None)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [change_objective, change_margin, change_pool, change_sampler, change_filter, change_cache],
    ids=lambda change: change.__name__,
)
def test_a_change_is_seen_to_the_bit_and_to_the_tolerance(
    change: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch)
    changed = record_run(tmp_path / "run", iterations=2, evaluate=False)
    assert first_difference(GOLDEN["run"], changed, exact=True)
    assert first_difference(GOLDEN["run"], changed, exact=False)


ALTERED: dict[str, Callable[[Record], Any]] = {
    "other prompts in an early iteration": lambda run: run["iterations"][3]["groups"].reverse(),
    "a figure beside the same tokens": lambda run: run["iterations"][8]["updates"][0].update(kl=0.5),
    "no evaluation": lambda run: run["evaluations"].clear(),
    "a worse end": lambda run: run["evaluations"][-1]["arithmetic"].update(avg=0.4),
}


def test_elsewhere_tokens_may_differ_late() -> None:
    run = copy.deepcopy(GOLDEN["run"])
    run["iterations"][8]["groups"].reverse()
    assert not first_difference(GOLDEN["run"], run, exact=False) and first_difference(GOLDEN["run"], run, exact=True)


@pytest.mark.parametrize("alteration", ALTERED)
def test_elsewhere_too_an_alteration_is_seen(alteration: str) -> None:
    run = copy.deepcopy(GOLDEN["run"])
    ALTERED[alteration](run)
    assert first_difference(GOLDEN["run"], run, exact=False)


@pytest.mark.slow
def test_activations_that_are_kept_twice_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = modeling_qwen3.Qwen3MLP.forward
    monkeypatch.setattr(modeling_qwen3.Qwen3MLP, "forward", lambda self, x: (forward(self, x) + forward(self, x)) / 2)
    changed = record_run(tmp_path / "run", iterations=1, evaluate=False)
    assert changed["memory"] > 1.01 * GOLDEN["run"]["memory"]
