"""The limits of prompts and responses against the context of a policy, and sampling that scores do not see."""

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
from architectures import TOKENIZER
from fake_sampling import Numbers

from rence_lightning.errors import UserError
from rence_lightning.prompts import PromptTemplate
from rence_lightning.rollouts import Sampling
from rence_lightning.sampling.datamodule import RolloutDataModule

SAMPLING = Sampling(max_response_tokens=500)


def policy(context: int | None = None) -> Any:
    return SimpleNamespace(context_length=context, tokenizer=TOKENIZER, model=SimpleNamespace(generation_config=None))


def connected(context: int | None, **settings: Any) -> RolloutDataModule:
    data = RolloutDataModule([Numbers(3)], sampling=SAMPLING, **settings)
    data.connect(policy(context))
    return data


@pytest.mark.parametrize(
    ("settings", "context", "longest"),
    [({}, 512, 12), ({}, 32768, 32268), ({"max_prompt_tokens": 9}, 512, 9), ({"max_prompt_tokens": 1536}, None, 1536)],
)
def test_by_default_a_prompt_may_take_what_the_response_leaves(
    settings: dict[str, int], context: int | None, longest: int
) -> None:
    assert connected(context, **settings).longest_prompt == longest


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, r"^data: a prompt and sampling\.max_response_tokens \(500\) need 501 tokens, .* is 500 .*; lower it$"),
        ({"max_prompt_tokens": 9}, r"^data: data\.max_prompt_tokens \(9\) and .* need 509 .*one of the two limits$"),
    ],
)
def test_limits_beyond_the_context_are_refused(settings: dict[str, int], words: str) -> None:
    with pytest.raises(UserError, match=words):
        connected(500, **settings)


@pytest.mark.parametrize(("top_p", "said"), [(0.9, 1), (1.0, 0)])
def test_truncated_sampling_in_training_is_said(top_p: float, said: int) -> None:
    data = RolloutDataModule([Numbers(3)], template=PromptTemplate("{problem}", False), sampling=Sampling(top_p=top_p))
    data.connect(policy())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data.setup("fit")
    assert sum("top_p is 0.9: responses are drawn" in str(each.message) for each in caught) == said
