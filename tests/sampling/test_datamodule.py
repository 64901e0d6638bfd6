"""What the data module makes of a policy: limits of lengths, tokens that end responses, sampling in training."""

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
from fake_sampling import Numbers
from tiny_models import EOS, tiny_model
from tiny_tokenizers import QWEN_LIKE, byte_tokenizer
from transformers import GenerationConfig

from rence_lightning.errors import UserError
from rence_lightning.prompts import PromptTemplate
from rence_lightning.rollouts import Sampling
from rence_lightning.rollouts.engine import end_of_sequence_ids
from rence_lightning.sampling.datamodule import RolloutDataModule

SAMPLING = Sampling(max_response_tokens=500)


def connected(
    context: int | None = None, chat_template: str | None = None, model: Any = None, **settings: Any
) -> RolloutDataModule:
    data = RolloutDataModule([Numbers(3)], **{"sampling": SAMPLING, **settings})
    tokenizer = byte_tokenizer(chat_template)
    data.connect(SimpleNamespace(context_length=context, tokenizer=tokenizer, model=model))  # type: ignore[arg-type]
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


TURN_END = 3
"""Id of `<|im_end|>`, which is not the end-of-sequence token of the model."""


@pytest.mark.parametrize(
    ("chat", "ends", "expected"),
    [
        (True, EOS, [EOS, TURN_END]),
        (None, [EOS, 7], [EOS, 7, TURN_END]),
        (True, [TURN_END, EOS], [TURN_END, EOS]),
        (False, EOS, [EOS]),
    ],
)
def test_the_end_of_a_turn_ends_responses_to_chats(chat: bool | None, ends: Any, expected: list[int]) -> None:
    model = tiny_model()
    model.generation_config.eos_token_id = ends
    connected(None, QWEN_LIKE, model, template=PromptTemplate(chat=chat))
    assert end_of_sequence_ids(model) == expected


def test_a_chat_template_without_a_token_for_the_end_of_a_turn_is_reported(recwarn: pytest.WarningsRecorder) -> None:
    model = tiny_model()
    with pytest.warns(UserWarning, match="no special token, so that a response ends with '<eos>' or at the limit"):
        connected(None, QWEN_LIKE.replace("<|im_end|>", "[END]"), model)
    assert end_of_sequence_ids(model) == [EOS]
    recwarn.clear()
    connected(None, None, model, template=PromptTemplate(chat=None))
    connected(None, None, model)  # an error when prompts are encoded
    assert not recwarn.list


def test_a_trained_policy_has_the_generation_config_of_its_training() -> None:
    given = {"do_sample": True, "temperature": 0.6, "top_k": 20, "repetition_penalty": 1.3}
    model = tiny_model()
    model.generation_config.update(**given)
    data = connected(None, QWEN_LIKE, model, sampling=Sampling(temperature=0.8, top_p=0.9))
    assert model.generation_config.temperature == 0.6, "an evaluation changes nothing"
    data.setup("fit")
    expected = {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "top_k": 0}
    ids = {"bos_token_id": 2, "eos_token_id": [EOS, TURN_END], "pad_token_id": 0}
    base = {name: value for name, value in given.items() if name != "do_sample"}
    assert model.generation_config.to_diff_dict() == {
        **GenerationConfig().to_diff_dict(), **expected, **ids, "base_sampling": base
    }  # fmt: skip


@pytest.mark.parametrize(("top_p", "said"), [(0.9, 1), (1.0, 0)])
def test_truncated_sampling_in_training_is_said(top_p: float, said: int) -> None:
    sampling = Sampling(top_p=top_p)
    data = connected(None, None, tiny_model(), template=PromptTemplate("{problem}", False), sampling=sampling)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data.setup("fit")
    assert sum("top_p is 0.9: responses are drawn" in str(each.message) for each in caught) == said
