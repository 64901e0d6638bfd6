"""The texts that rewards see."""

from array import array

import pytest
from transformers import AutoTokenizer

from rence_lightning.policy.load import EMBEDDED
from rence_lightning.prompts import Problem, Prompt
from rence_lightning.rewards import Score
from rence_lightning.rollouts import Rollout
from rence_lightning.sampling import Group, IterationBatch, Outcome
from rence_lightning.sampling.scoring import responses_of

TOKENIZER = AutoTokenizer.from_pretrained(EMBEDDED / "arithmetic")
PROMPT = Prompt(0, Problem("p", "40+1", "41"), (4, 5))


def test_an_id_without_a_token_is_seen_and_counted() -> None:
    """A padded vocabulary: the ids of the last logits decode to nothing, and 4, nothing, 1 would be 41."""
    four, one = TOKENIZER.convert_tokens_to_ids(["4", "1"])
    ends, size = TOKENIZER.eos_token_id, len(TOKENIZER)
    rows = [[four, one, ends], [four, size, one, ends], [size + 7, size, four, one], [four, ends, one]]
    rollouts = [Rollout(array("i", ids), array("f", [-1.0] * len(ids)), "stop") for ids in rows]
    with pytest.warns(UserWarning, match="tokenizer does not have"):
        texts = [response.text for response in responses_of(TOKENIZER, PROMPT, rollouts)]
    assert texts == ["41", "4\ufffd1", "\ufffd\ufffd41", "41"]
    batch = IterationBatch(1, 1, 1)
    batch.add(Group(PROMPT, rollouts, texts, [Score(0.0, False, None)] * 4, 1.0, outcome=Outcome.TOO_HARD))
    assert batch.metrics()["undecodable"] == 0.5
    batch.add(Group(PROMPT, rollouts[:1], texts[:1], [Score(0.0, False, None)], 1.0, outcome=Outcome.TOO_HARD))
    assert batch.metrics()["undecodable"] == 0.4
