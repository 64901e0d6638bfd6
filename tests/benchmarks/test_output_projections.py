"""The comparison of output projections: which ways give a right gradient, and the memory of a known one."""

import pytest
import torch

from benchmarks.memory import RESET, WAYS, all_logits, gradient_error, measure, torch_sum, verdict

CPU = torch.device("cpu")


def test_every_way_but_a_sum_gives_the_exact_gradient() -> None:
    verdicts = {way: verdict(gradient_error(way, CPU)) for name, way in WAYS.items() if not name.startswith("Liger")}
    assert verdicts.pop(torch_sum) == "no: one scalar"
    assert all(each.startswith("yes") for each in verdicts.values())
    assert verdict(0.3) == "no: WRONG GRADIENT, error 3e-01"


@pytest.mark.skipif(not RESET.exists(), reason="peak memory is read from /proc, which this system does not have")
def test_all_logits_take_some_tensors_of_their_size() -> None:
    name = next(name for name, way in WAYS.items() if way is all_logits)
    peak, seconds, _ = measure(name, 2048, 32, 8192, "float32", "cpu")
    logits = 2048 * 8192 * 4
    assert 1.5 * logits < peak < 6 * logits and seconds > 0
