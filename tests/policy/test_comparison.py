"""Which padded rows have no fast attention on a GPU; what a GPU does with them, only one can tell."""

import warnings

import pytest
import torch
from tiny_models import tiny_policy

from rence_lightning.policy import warn_of_padding
from rence_lightning.policy.comparison import has_no_fast_padding


def test_only_shared_keys_in_float32_on_a_gpu_have_no_fast_kernel() -> None:
    shared, own = tiny_policy("qwen3-tied"), tiny_policy("gpt2")
    assert shared.model.config.num_key_value_heads < shared.model.config.num_attention_heads
    assert has_no_fast_padding(shared, "cuda")
    assert not has_no_fast_padding(shared, "cpu") and not has_no_fast_padding(own, "cuda")
    shared.to(torch.bfloat16)
    assert not has_no_fast_padding(shared, "cuda")


def test_a_padded_policy_warns_and_a_packed_one_does_not() -> None:
    policy = tiny_policy("qwen3-tied")
    assert policy.packed
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_padding(policy, "cuda")
    policy.packed = False
    with pytest.warns(UserWarning, match="no fast attention on a GPU"):
        warn_of_padding(policy, "cuda")
