"""Products with packed weights against float64, and what is packed."""

import pytest
import torch
from engine_streams import sampled
from tiny_models import tiny_policy
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from rence_lightning.policy import PackedRow
from rence_lightning.policy.packed_row import Segment
from rence_lightning.rollouts import Sampling, TransformersEngine, packed_weights
from rence_lightning.rollouts.packed_weights import PackedWeights

pytestmark = pytest.mark.skipif(
    not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()), reason="packs on x86 alone"
)


@pytest.mark.parametrize("bias", [False, True])
def test_products_are_those_of_the_layer_and_do_not_depend_on_the_other_rows(bias: bool) -> None:
    torch.manual_seed(0)
    layer, states = nn.Linear(300, 500, bias=bias), torch.randn(40, 1, 300)
    before, exact = layer(states), layer.double()(states.double())
    layer.float()
    with torch.no_grad(), PackedWeights(layer).used():
        assert "forward" in vars(layer), "the test needs a weight that is packed"
        found, few = layer(states), layer(states[:3])
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-5)
    assert torch.equal(few, found[:3])
    assert torch.equal(layer(states), before), "afterwards the layer is as it was"


class Doubled(nn.Linear):
    def forward(self, states: Tensor) -> Tensor:
        return 2 * super().forward(states)


@pytest.mark.parametrize(
    ("layer", "dtype", "autocast"),
    [
        (nn.Linear(256, 256), torch.float32, False),
        (nn.Linear(300, 500), torch.bfloat16, False),
        (nn.Linear(300, 500), torch.float32, True),
        (Doubled(300, 500), torch.float32, False),
        (nn.Embedding(300, 500), torch.float32, False),
        (parametrizations.weight_norm(nn.Linear(300, 500)), torch.float32, False),
        (prune.l1_unstructured(nn.Linear(300, 500), "weight", 0.1), torch.float32, False),
    ],
)
def test_what_would_not_gain_or_not_be_the_same_is_left_as_it_is(
    layer: nn.Module, dtype: torch.dtype, autocast: bool
) -> None:
    layer.to(dtype)
    with torch.autocast("cpu", enabled=autocast):
        packed = PackedWeights(layer)
    with packed.used():
        assert "forward" not in vars(layer)


@pytest.mark.parametrize("architecture", ["qwen3-tied", "qwen3-untied"])
def test_samples_have_the_trainers_log_probabilities_after_each_update(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, engine, prompts = tiny_policy(architecture), TransformersEngine(), [[5, 6, 7], [3, 4]]
    sampling = Sampling(max_response_tokens=24)
    monkeypatch.setattr(packed_weights, "SMALL", 0)
    engine.sync(policy)
    engine.check()

    def differences() -> tuple[float, float]:
        """The largest difference between the sampled and the trainer's log-probabilities, now and after an update."""
        with monkeypatch.context() as patch:
            patch.setattr(nn.Linear, "forward", None)  # no layer multiplies by itself
            groups = sampled(engine, prompts, 6, sampling, [11, 12])
        segments = [Segment(p, [r.token_ids for r in group]) for p, group in zip(prompts, groups, strict=True)]
        theirs = torch.tensor([value for group in groups for r in group for value in r.log_probs])
        row, found = PackedRow(segments, torch.device("cpu")), []
        for change in (0.0, 0.05):
            for parameter in policy.parameters():
                parameter.data.add_(change)
            found.append(float((policy(row).log_probs.detach() - theirs).abs().max()))
        return found[0], found[1]

    for _ in range(2):
        before, after = differences()
        assert before < 1e-5 < 1e-2 < after, "the copies are those of this iteration"
