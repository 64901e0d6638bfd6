"""The trial before a run finds a model that is not decoded as its forward pass computes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, tiny_model
from transformers import Cache

from rence_lightning.errors import UserError
from rence_lightning.rollouts import decoding

REORDER, PADDED = Cache.reorder_cache, decoding._padded


def rows_of_the_first_prompt(self: Cache, rows: torch.Tensor) -> None:
    REORDER(self, torch.zeros_like(rows))


def rows_as_they_were(self: Cache, rows: torch.Tensor) -> None:
    REORDER(self, torch.arange(len(rows)))


def without_a_mask(*arguments: Any) -> Any:
    ids, _, positions = PADDED(*arguments)
    return ids, None, positions


@pytest.mark.filterwarnings("ignore:.*is sampled with its own cache")
@pytest.mark.parametrize(
    ("owner", "name", "fault", "dtype"),
    [
        (Cache, "reorder_cache", rows_of_the_first_prompt, torch.float32),
        (Cache, "reorder_cache", rows_of_the_first_prompt, torch.bfloat16),
        (Cache, "reorder_cache", rows_as_they_were, torch.bfloat16),
        (decoding, "_padded", without_a_mask, torch.float32),
        (decoding, "CACHES", (), torch.float32),
    ],
)
def test_a_fault_in_decoding_is_found(
    owner: Any, name: str, fault: Callable[..., Any], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(ARCHITECTURES["Qwen3.5"]).to(dtype)
    with torch.no_grad():
        assert decoding.decoder_for(model) is decoding.GeneralDecoder
        monkeypatch.setattr(owner, name, fault)
        with pytest.raises(UserError, match="transformers cannot sample Qwen3_5ForCausalLM"):
            decoding.decoder_for(model)


def test_logits_that_are_not_finite_are_named() -> None:
    model = tiny_model(ARCHITECTURES["Qwen3"])
    with torch.no_grad():
        for name, weight in model.named_parameters():  # the same function, with large values in each layer
            weight *= 1e6 if "up_proj" in name else 1e-6 if "down_proj" in name else 1
        assert decoding.decoder_for(model) is decoding.SharedPromptDecoder
        overflows = r"Qwen3ForCausalLM: its logits are not finite, as where float16 overflows .*bf16-mixed\)"
        with torch.autocast("cpu", torch.float16), pytest.raises(UserError, match=overflows):
            decoding.decoder_for(model)
        model.get_input_embeddings().weight[3] = torch.nan
        with pytest.raises(UserError, match="cannot sample Qwen3ForCausalLM: its logits are not finite"):
            decoding.decoder_for(model)
