"""Peak memory: of a known allocation, of the same gradient in three layouts, and which ways give a right gradient."""

import time

import pytest
import torch

from benchmarks.memory.__main__ import verdict
from benchmarks.memory.head import gradient_error, ways
from benchmarks.memory.peak import RESET, cost_of
from benchmarks.memory.point import HeadPoint, Layout, UpdatePoint, measure_apart
from benchmarks.memory.update import Update

CPU = torch.device("cpu")
linux = pytest.mark.skipif(not RESET.exists(), reason="peak memory is read from /proc, which this system does not have")


@linux
def test_the_peak_is_that_of_the_first_call() -> None:
    size = 2**24

    def work() -> None:
        first = torch.ones(size)
        del first
        torch.ones(2 * size)
        time.sleep(0.01)

    cost = cost_of(work, CPU, repeats=2)
    assert cost.bytes == pytest.approx(2 * size * 4, rel=0.1)
    assert 0.01 < cost.seconds < 10


@linux
@pytest.mark.slow
def test_a_point_is_measured_in_a_process_of_its_own() -> None:
    tokens, vocabulary = 1024, 8192
    figures = measure_apart(HeadPoint("all_logits", tokens, 32, vocabulary))
    logits = tokens * vocabulary * 4
    assert 2 * logits < figures["bytes"] < 6 * logits
    layouts: tuple[Layout, Layout] = ("packed", "naive")
    packed, naive = (measure_apart(UpdatePoint(layout, 256, 4096))["bytes"] for layout in layouts)
    assert packed < naive / 2


@linux
@pytest.mark.slow
def test_a_point_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match="KeyError: 'nonsense'"):
        measure_apart(HeadPoint("nonsense", 8, 8, 8))


@pytest.mark.parametrize("key", ["all_logits", "checkpointed", "project", "torch_whole", "torch_auto", "torch_chunked"])
def test_ways_that_serve_coupled_responses_give_the_exact_gradient(key: str) -> None:
    error = gradient_error(ways(CPU)[key], CPU)
    assert error < 1e-5
    assert verdict(error).startswith("yes")


def test_ways_that_do_not_are_named() -> None:
    assert verdict(gradient_error(ways(CPU)["torch_sum"], CPU)) == "no: one scalar"
    assert verdict(0.3) == "no: WRONG GRADIENT, error 3e-01"
    assert "needs a GPU" in ways(CPU)["liger"].skip


def test_all_layouts_have_the_same_gradient() -> None:
    layouts: tuple[Layout, ...] = ("packed", "padded", "naive")
    gradients = []
    for layout in layouts:
        update = Update(UpdatePoint(layout, 8, 50, prompt_tokens=5, group_size=3), CPU)
        update.backward([3, 8, 1])
        gradients.append(
            torch.cat([each.grad.flatten() for each in update.policy.parameters() if each.grad is not None])
        )
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], atol=1e-5, rtol=1e-3)
