"""The policy of the reasoning-gym example: it loads with plain transformers, half knows its task, and saw no test."""

import random
import re

import pytest
import torch
import yaml
from command_line import CONF
from transformers import AutoModelForCausalLM, AutoTokenizer

from rence_lightning.policy.load import EMBEDDED
from rence_lightning.prompts import GymProblems
from rence_lightning.prompts.arithmetic import Chain
from rence_lightning.prompts.gym_generation import split_of
from rence_lightning.rewards import last_boxed
from tools.make_gym import CHARACTERS, TASK, draw_example, question_of
from tools.warm_up import EOS, TEMPLATE, build_tokenizer

FOLDER = EMBEDDED / "gym"


def test_it_is_small_and_reads_all_of_ascii() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 1_200_000
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    text = "\n" + "".join(map(chr, range(32, 127)))
    ids = tokenizer.encode(text)
    assert len(set(ids)) == len(text)
    assert tokenizer.decode(ids) == text
    assert build_tokenizer(CHARACTERS).encode(text + EOS) == [*ids, tokenizer.eos_token_id]


def test_no_example_asks_a_problem_of_the_test_split() -> None:
    rng = random.Random(0)
    for _ in range(2000):
        prompt, _ = draw_example(rng, sloppy=True)
        assert split_of(prompt.removesuffix("\n")) == "train"


def test_examples_are_right_unless_sloppy() -> None:
    rng = random.Random(0)
    wrong = 0
    for sloppy in (False, True):
        for _ in range(500):
            prompt, response = draw_example(rng, sloppy)
            terms = re.findall(r"[+-]? ?\d+", prompt)
            value = sum(int(term.replace(" ", "")) for term in terms)
            if sloppy:
                wrong += last_boxed(response) != str(value)
            else:
                assert last_boxed(response) == str(value)
    assert 100 < wrong < 400


def test_questions_are_written_as_reasoning_gym_writes_them() -> None:
    assert question_of(Chain(5, (-9, 8))) == "Calculate 5 - 9 + 8."
    written = {re.sub(r"\d+", "1", question_of(Chain(5, steps))) for steps in ((1,), (-1, 2), (1, 2, -3), (0, -2))}
    generated = GymProblems({"basic_arithmetic": TASK}, size=200, instruction="").load()
    shapes = {re.sub(r"\d+", "1", problem.problem) for problem in generated}
    assert written <= shapes


def test_the_configuration_has_the_task_for_which_the_policy_was_made() -> None:
    config = yaml.safe_load((CONF / "gym.yaml").read_text())
    sources = (*config["data"]["problems"], *config["evaluation"]["benchmarks"].values())
    for source in sources:
        assert source["init_args"]["tasks"] == {"basic_arithmetic": {"weight": 1.0, "settings": TASK.settings}}
    assert config["data"]["template"]["text"] == TEMPLATE


@pytest.mark.parametrize(("sampled", "least", "most"), [(False, 0.4, 0.9), (True, 0.03, 0.4)])
def test_it_half_knows_its_task(sampled: bool, least: float, most: float) -> None:
    """Through transformers' own `generate`: well with the most likely tokens, badly when it samples."""
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()
    problems = GymProblems({"basic_arithmetic": TASK}, split="test", size=100, instruction="").load()
    torch.manual_seed(0)
    batch = tokenizer([TEMPLATE.format(problem=p.problem) for p in problems], return_tensors="pt", padding=True)
    tokens = model.generate(**batch, max_new_tokens=64, do_sample=sampled)
    responses = tokenizer.batch_decode(tokens[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    right = sum(last_boxed(text) == problem.answer for text, problem in zip(responses, problems, strict=True))
    assert least < right / len(problems) < most
