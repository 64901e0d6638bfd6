"""What the data module makes of a policy: the tokens that end its responses, and its generation config."""

from types import SimpleNamespace
from typing import Any

import pytest
from fake_sampling import FakeEngine, LastToken, Numbers
from tiny_models import EOS, tiny_model
from tiny_tokenizers import QWEN_LIKE, byte_tokenizer
from transformers import GenerationConfig

from rence_lightning.prompts import PromptTemplate
from rence_lightning.rollouts import Sampling
from rence_lightning.rollouts.engine import end_of_sequence_ids
from rence_lightning.sampling.datamodule import RolloutDataModule

TURN_END = 3
"""Id of `<|im_end|>`, which is not the end-of-sequence token of the model."""


def connected(template: PromptTemplate, chat_template: str | None, **settings: Any) -> tuple[RolloutDataModule, Any]:
    policy: Any = SimpleNamespace(model=tiny_model(), tokenizer=byte_tokenizer(chat_template), context_length=None)
    policy.model.generation_config.update(**settings)
    sampling = Sampling(temperature=0.8, top_p=0.9)
    data = RolloutDataModule(
        [Numbers(3)], template=template, engine=FakeEngine(), reward=LastToken(), sampling=sampling
    )
    data.connect(policy)
    return data, policy.model


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
    _, model = connected(PromptTemplate(chat=chat), QWEN_LIKE, eos_token_id=ends)
    assert end_of_sequence_ids(model) == expected


def test_a_chat_template_without_a_token_for_the_end_of_a_turn_is_reported(recwarn: pytest.WarningsRecorder) -> None:
    with pytest.warns(UserWarning, match="no special token, so that a response ends with '<eos>' or at the limit"):
        _, model = connected(PromptTemplate(), QWEN_LIKE.replace("<|im_end|>", "[END]"))
    assert end_of_sequence_ids(model) == [EOS]
    recwarn.clear()
    connected(PromptTemplate(chat=None), None)
    connected(PromptTemplate(), None)  # an error when prompts are encoded
    assert not recwarn.list


def test_a_trained_policy_has_the_generation_config_of_its_training() -> None:
    given = {"do_sample": True, "temperature": 0.6, "top_k": 20, "repetition_penalty": 1.3}
    data, model = connected(PromptTemplate("{problem}"), QWEN_LIKE, **given)
    assert model.generation_config.temperature == 0.6, "an evaluation changes nothing"
    data.setup("fit")
    expected = {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "top_k": 0}
    ids = {"bos_token_id": 2, "eos_token_id": [EOS, TURN_END], "pad_token_id": 0}
    base = {name: value for name, value in given.items() if name != "do_sample"}
    assert model.generation_config.to_diff_dict() == {
        **GenerationConfig().to_diff_dict(), **expected, **ids, "base_sampling": base
    }  # fmt: skip
