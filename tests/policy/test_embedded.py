"""The policies shipped in the package: they load with plain transformers, half know their task, and saw no test."""

import random
import re
from typing import Any

import pytest
import torch
import yaml
from command_line import CONF
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen3ForCausalLM

from rence_lightning.policy.load import EMBEDDED, load_policy
from rence_lightning.prompts import ArithmeticProblems, GymProblems, Problem
from rence_lightning.prompts.arithmetic import Chain
from rence_lightning.prompts.gym_generation import split_of
from rence_lightning.rewards import last_boxed
from tools import make_arithmetic, make_gym
from tools.warm_up import EOS, TEMPLATE, build_model, build_tokenizer, encode_examples

CHARACTERS = {"arithmetic": make_arithmetic.CHARACTERS, "gym": make_gym.CHARACTERS}
PARAMETERS = {"arithmetic": 496_128, "gym": 505_088}
FILES = {"README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}


@pytest.fixture(params=CHARACTERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED / name)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    return tokenizer


def test_the_folder_holds_a_small_hugging_face_model_and_nothing_else(name: str) -> None:
    assert {path.name for path in (EMBEDDED / name).iterdir()} == {*FILES, "tokenizer_config.json"}
    assert sum(path.stat().st_size for path in (EMBEDDED / name).iterdir()) < 1_200_000


def test_the_tools_build_what_is_shipped(name: str) -> None:
    tokenizer, built = tokenizer_of(name), build_tokenizer(CHARACTERS[name])
    model = AutoModelForCausalLM.from_pretrained(EMBEDDED / name, dtype=torch.float32)
    assert isinstance(model, Qwen3ForCausalLM) and model.num_parameters() == PARAMETERS[name]
    assert built.get_vocab() == tokenizer.get_vocab() and tokenizer.chat_template is None
    assert {key: weight.shape for key, weight in build_model(built).state_dict().items()} == {
        key: weight.shape for key, weight in model.state_dict().items()
    }
    for special in ("eos_token_id", "pad_token_id", "bos_token_id"):
        assert getattr(model.config, special) == getattr(model.generation_config, special)
        assert getattr(model.config, special) == getattr(tokenizer, special)
    assert len({tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id}) == 3
    policy = load_policy(f"embedded:{name}")
    assert (policy.model.num_parameters(), policy.model.dtype) == (PARAMETERS[name], torch.float32)


def test_text_survives_the_tokenizer_one_token_a_character_and_none_around_it(name: str) -> None:
    tokenizer = tokenizer_of(name)
    for text in (CHARACTERS[name], "\n\n 1  + \\\\{}"):
        token_ids = tokenizer.encode(text)
        assert len(token_ids) == len(text) and tokenizer.decode(token_ids) == text
        assert token_ids == tokenizer.encode(text, add_special_tokens=False)
        ended = [*token_ids, tokenizer.eos_token_id, tokenizer.pad_token_id]
        assert tokenizer.decode(ended, skip_special_tokens=True) == text
    assert tokenizer.encode("1é7") == [tokenizer.vocab["1"], tokenizer.unk_token_id, tokenizer.vocab["7"]]


def held_out(name: str) -> list[Problem]:
    if name == "arithmetic":
        return ArithmeticProblems("test", count=100).load()
    return GymProblems({"basic_arithmetic": make_gym.TASK}, split="test", size=100, instruction="").load()


def test_it_half_knows_its_task(name: str) -> None:
    """Through transformers' own `generate`: well with the most likely tokens, badly when it samples."""
    tokenizer, problems = tokenizer_of(name), held_out(name)
    model: Any = AutoModelForCausalLM.from_pretrained(EMBEDDED / name, dtype=torch.float32).eval()
    batch = tokenizer([TEMPLATE.format(problem=p.problem) for p in problems], return_tensors="pt", padding=True)
    for sampled, least, most in ((False, 0.4, 0.95), (True, 0.03, 0.5)):
        torch.manual_seed(0)
        tokens = model.generate(**batch, max_new_tokens=64, do_sample=sampled)
        texts = tokenizer.batch_decode(tokens[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        right = sum(last_boxed(text) == problem.answer for text, problem in zip(texts, problems, strict=True))
        assert least < right / len(problems) < most
        assert sum(last_boxed(text) is not None for text in texts) >= 0.7 * len(problems)


def test_examples_are_trained_on_the_response_and_its_end_alone() -> None:
    tokenizer = tokenizer_of("arithmetic")
    token_ids, labels = encode_examples([("1+2=?\n", "3"), ("1+2=?\n", "1+2=3")], tokenizer)
    assert token_ids.shape == labels.shape == (2, 12)
    assert tokenizer.decode(token_ids[0][:8]) == f"1+2=?\n3{EOS}"
    assert labels[0].tolist() == [-100] * 6 + [tokenizer.vocab["3"], tokenizer.eos_token_id] + [-100] * 4
    assert tokenizer.decode(labels[1][6:]) == f"1+2=3{EOS}"


def test_examples_of_the_gym_policy_ask_no_test_problem_and_are_right_unless_sloppy() -> None:
    rng, wrong = random.Random(0), 0
    for sloppy in (False, True):
        for prompt, response in make_gym.draw_examples(rng, 1000, sloppy):
            assert split_of(prompt.removesuffix("\n")) == "train"
            value = sum(int(term.replace(" ", "")) for term in re.findall(r"[+-]? ?\d+", prompt))
            assert sloppy or last_boxed(response) == str(value)
            wrong += last_boxed(response) != str(value)
    assert 200 < wrong < 800


def test_questions_are_written_as_reasoning_gym_writes_them_and_the_configuration_asks_them() -> None:
    assert make_gym.question_of(Chain(5, (-9, 8))) == "Calculate 5 - 9 + 8."
    steps = ((1,), (-1, 2), (1, 2, -3), (0, -2))
    written = {re.sub(r"\d+", "1", make_gym.question_of(Chain(5, each))) for each in steps}
    assert written <= {re.sub(r"\d+", "1", problem.problem) for problem in held_out("gym")}
    config = yaml.safe_load((CONF / "gym.yaml").read_text())
    for source in (*config["data"]["problems"], *config["evaluation"]["benchmarks"].values()):
        tasks = {"basic_arithmetic": {"weight": 1.0, "settings": make_gym.TASK.settings}}
        assert source["init_args"]["tasks"] == tasks
    assert config["data"]["template"]["text"] == TEMPLATE
