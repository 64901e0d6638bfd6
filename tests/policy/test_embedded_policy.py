"""The policy shipped in the package: it loads with plain transformers, and half knows its task."""

import random
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen3ForCausalLM

from rence_lightning.policy.load import EMBEDDED, load_policy
from rence_lightning.prompts.arithmetic import ArithmeticProblems, Chain, draw_chain
from rence_lightning.rewards import last_boxed
from tools.make_arithmetic import CHARACTERS, sloppy_response
from tools.warm_up import EOS, TEMPLATE, build_model, build_tokenizer, encode_examples

FOLDER = EMBEDDED / "arithmetic"
WORKED = "76+4+9+8=?\n76+4=80,80+9=89,89+8=97,\\boxed{97}"
HELD_OUT = ArithmeticProblems("test", count=50).load()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    loaded = AutoTokenizer.from_pretrained(FOLDER)
    assert isinstance(loaded, PreTrainedTokenizerFast)
    return loaded


@pytest.fixture(scope="module")
def model() -> Qwen3ForCausalLM:
    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()


def answers(model: Any, tokenizer: PreTrainedTokenizerFast, do_sample: bool) -> list[str | None]:
    """One answer to each held-out problem, through transformers' own `generate`."""
    torch.manual_seed(0)
    batch = tokenizer([TEMPLATE.format(problem=p.problem) for p in HELD_OUT], return_tensors="pt", padding=True)
    tokens = model.generate(**batch, max_new_tokens=64, do_sample=do_sample)
    responses = tokenizer.batch_decode(tokens[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return [last_boxed(response) for response in responses]


def test_the_folder_holds_a_small_hugging_face_model_and_nothing_else() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 1_200_000


def test_the_architecture(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    assert isinstance(model, Qwen3ForCausalLM)
    assert model.num_parameters() == 496_128
    assert model.config.vocab_size == len(tokenizer)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_it_loads_by_its_short_name() -> None:
    policy = load_policy("embedded:arithmetic")
    assert policy.model.num_parameters() == 496_128
    assert policy.model.dtype == torch.float32


def test_text_survives_the_tokenizer_one_token_a_character(tokenizer: PreTrainedTokenizerFast) -> None:
    for text in (WORKED, CHARACTERS, "\n\n 1  + \\\\{}"):
        token_ids = tokenizer.encode(text)
        assert len(token_ids) == len(text)
        assert tokenizer.decode(token_ids) == text
        ended = [*token_ids, tokenizer.eos_token_id, tokenizer.pad_token_id]
        assert tokenizer.decode(ended, skip_special_tokens=True) == text


def test_no_token_is_added_around_a_text(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.encode(WORKED) == tokenizer.encode(WORKED, add_special_tokens=False)
    assert tokenizer.chat_template is None


def test_foreign_characters_become_unknown(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.encode("1é7") == [tokenizer.vocab["1"], tokenizer.unk_token_id, tokenizer.vocab["7"]]


def test_special_tokens_agree_between_the_files(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    for config in (model.config, model.generation_config):
        assert config.eos_token_id == tokenizer.eos_token_id
        assert config.pad_token_id == tokenizer.pad_token_id
        assert config.bos_token_id == tokenizer.bos_token_id
    assert len({tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id}) == 3


def test_greedy_answers_are_mostly_right(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    found = answers(model, tokenizer, do_sample=False)
    right = sum(answer == problem.answer for answer, problem in zip(found, HELD_OUT, strict=True))
    assert right >= 0.6 * len(HELD_OUT)


def test_sampled_answers_are_boxed_and_leave_room_to_learn(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    found = answers(model, tokenizer, do_sample=True)
    right = sum(answer == problem.answer for answer, problem in zip(found, HELD_OUT, strict=True))
    assert 0.08 * len(HELD_OUT) <= right <= 0.6 * len(HELD_OUT)  # a guess among the 100 or so answers is right by 1%
    assert sum(answer is not None for answer in found) >= 0.7 * len(HELD_OUT)


def test_the_script_builds_what_is_shipped(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    built = build_tokenizer(CHARACTERS)
    assert built.get_vocab() == tokenizer.get_vocab()
    assert {name: weight.shape for name, weight in build_model(built).state_dict().items()} == {
        name: weight.shape for name, weight in model.state_dict().items()
    }


def test_examples_are_trained_on_the_response_and_its_end_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    token_ids, labels = encode_examples([("1+2=?\n", "3"), ("1+2=?\n", "1+2=3")], tokenizer)
    assert token_ids.shape == labels.shape == (2, 12)
    assert tokenizer.decode(token_ids[0][:8]) == f"1+2=?\n3{EOS}"
    assert labels[0].tolist() == [-100] * 6 + [tokenizer.vocab["3"], tokenizer.eos_token_id] + [-100] * 4
    assert tokenizer.decode(labels[1][6:]) == f"1+2=3{EOS}"


def test_sloppy_responses_are_wrong_in_the_ways_meant() -> None:
    rng = random.Random(0)
    chains = [draw_chain(rng) for _ in range(4000)]
    responses = [(chain, sloppy_response(chain, rng)) for chain in chains]
    total = len(responses)
    assert sum(last_boxed(text) is None for _, text in responses) / total == pytest.approx(0.12, abs=0.02)
    # A guess, or the only operation dropped (a quarter of the chains have one).
    assert sum("=" not in text for _, text in responses) / total == pytest.approx(0.25 + 0.2 / 4, abs=0.03)
    right = sum(last_boxed(text) == chain.answer for chain, text in responses) / total
    assert 0.3 < right < 0.45
    assert sloppy_response(Chain(76, (4,)), random.Random(0)) == sloppy_response(Chain(76, (4,)), random.Random(0))
