"""The digest of a policy's weights: equal for equal weights, sharded or not, and different for any others."""

import pytest
import torch
from tiny_models import ARCHITECTURES, tiny_policy
from torch import nn

from rence_lightning.policy import weights_digest


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_any_changed_bit_changes_it(architecture: str) -> None:
    policy = tiny_policy(architecture)
    digest = weights_digest(policy)
    assert weights_digest(tiny_policy(architecture)) == digest
    for parameter in list(policy.parameters())[:3]:
        with torch.no_grad():
            bits = parameter.view(-1)[-1:].view(torch.int32)
            bits ^= 1
        assert weights_digest(policy) != digest
        bits ^= 1
    assert weights_digest(policy) == digest


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_any_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    one, other = nn.Linear(7, 5).to(dtype), nn.Linear(7, 5).to(dtype)
    assert weights_digest(one) != weights_digest(other)
    other.load_state_dict(one.state_dict())
    assert weights_digest(one) == weights_digest(other)
