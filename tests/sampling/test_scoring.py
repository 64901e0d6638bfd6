"""What rewards and filters see of a response, against what the tokens were made of."""

import pickle
from array import array

import pytest
from architectures import TOKENIZER
from tiny_tokenizers import QWEN_LIKE, byte_tokenizer

from rence_lightning.prompts import Problem, Prompt, PromptTemplate
from rence_lightning.rewards import Response, Score
from rence_lightning.rollouts import Rollout
from rence_lightning.sampling import Group, IterationBatch, Outcome
from rence_lightning.sampling.scoring import responses_of

ANSWER = "2 <answer>4</answer><eos>"


@pytest.fixture
def response() -> Response:
    tokenizer = byte_tokenizer(QWEN_LIKE + "<think>")
    tokenizer.add_special_tokens({"extra_special_tokens": ["<answer>", "</answer>", "<think>"]})
    problem = Problem("p", "2+2", "4")
    ids = PromptTemplate("{problem}").encode_all(tokenizer, [problem])[0]
    answer = array("i", tokenizer(ANSWER)["input_ids"])
    assert len(answer) == 6
    rollout = Rollout(answer, array("f", [0.0] * len(answer)), "stop")
    return responses_of(tokenizer, Prompt(0, problem, tuple(ids)), [rollout])[0]


def test_special_tokens_and_the_prompt_are_seen_beside_the_text(response: Response) -> None:
    assert response.text == "2 4"
    assert response.raw_text == ANSWER
    assert response.prompt_text.startswith("<|im_start|>user\n2+2<|im_end|>\n")
    assert response.prompt_text.endswith("<think>")


def test_what_a_reward_does_with_the_tokens_changes_nothing_of_what_is_trained_on() -> None:
    tokenizer, ids = byte_tokenizer(QWEN_LIKE), array("i", [4, 5, 6])
    (response,) = responses_of(tokenizer, Prompt(0, Problem("p", "2+2", "4"), (7,)), [Rollout(ids, array("f"), "stop")])
    response.token_ids[0] = 9  # type: ignore[index]
    assert ids == array("i", [4, 5, 6]) and response.token_ids == array("i", [9, 5, 6])


def test_a_response_reaches_another_process_whole_and_without_the_tokenizer(response: Response) -> None:
    sent = pickle.loads(pickle.dumps(response))
    assert sent == response and (sent.raw_text, sent.prompt_text) == (ANSWER, response.prompt_text)
    assert len(pickle.dumps(response)) < 2000


def test_an_id_without_a_token_is_seen_and_counted() -> None:
    """A padded vocabulary: the ids of the last logits decode to nothing, and 4, nothing, 1 would be 41."""
    four, one = TOKENIZER.convert_tokens_to_ids(["4", "1"])
    ends, size = TOKENIZER.eos_token_id, len(TOKENIZER)
    rows = [[four, one, ends], [four, size, one, ends], [size + 7, size, four, one], [four, ends, one]]
    rollouts = [Rollout(array("i", ids), array("f", [-1.0] * len(ids)), "stop") for ids in rows]
    prompt = Prompt(0, Problem("p", "40+1", "41"), (four, one))
    with pytest.warns(UserWarning, match="tokenizer does not have"):
        responses = responses_of(TOKENIZER, prompt, rollouts)
        assert responses[1].raw_text == "4\ufffd1<eos>"
    texts = [response.text for response in responses]
    assert texts == ["41", "4\ufffd1", "\ufffd\ufffd41", "41"]
    batch = IterationBatch(1, 1, 1)
    batch.add(Group(prompt, rollouts, texts, [Score(0.0, False, None)] * 4, 1.0, outcome=Outcome.TOO_HARD))
    assert batch.metrics()["undecodable"] == 0.5
    batch.add(Group(prompt, rollouts[:1], texts[:1], [Score(0.0, False, None)], 1.0, outcome=Outcome.TOO_HARD))
    assert batch.metrics()["undecodable"] == 0.4
