"""The output projection above float16 states: logits beyond the range of float16 are exact."""

import pytest
import torch

from rence_lightning.policy.output_projection import token_scores


@pytest.mark.parametrize("sharded", [False, True], ids=["float32-weight", "float16-weight"])
def test_logits_beyond_65504_do_not_overflow(sharded: bool) -> None:
    """FSDP2 gathers the weight in float16; autocast alone leaves it in float32."""
    generator = torch.Generator().manual_seed(0)
    states = (1000 * torch.randn(6, 32, generator=generator)).half().requires_grad_()
    head = torch.nn.Linear(32, 50, bias=False)
    with torch.no_grad():
        head.weight.copy_(20 * torch.randn(50, 32, generator=generator))
    if sharded:
        head.half()
    targets = torch.randint(50, (6,), generator=generator)
    logits = states.double() @ head.weight.double().t()
    assert logits.abs().max() > 65504 and not torch.isfinite(logits.half()).all()
    with torch.autocast("cpu", dtype=torch.float16):
        log_probs, entropy = token_scores(head, states, targets, 1.0, True)
    expected = logits.log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    assert log_probs.dtype == torch.float32
    torch.testing.assert_close(log_probs.double(), expected, rtol=1e-5, atol=0.1)
    log_probs.sum().backward()
    assert entropy is not None and torch.isfinite(entropy).all()
    assert states.grad is not None and torch.isfinite(states.grad).all()
