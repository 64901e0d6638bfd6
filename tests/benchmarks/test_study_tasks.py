"""The tasks of the studies: splits that share no problem, rewards, and errors of a grader."""

import json
import math
import random
from pathlib import Path

import pytest

from benchmarks.study.tasks import TRAIN, NoisyReward, chain_splits, partial_credit, warm_up_problems, write_problems
from rence_lightning.problem import Problem
from rence_lightning.prompts import FileProblems
from rence_lightning.prompts.arithmetic import chains_of
from rence_lightning.rewards import Response
from tools.make_arithmetic import draw_examples
from tools.warm_up import BATCH_SIZE, PHASES, TEMPLATE


def test_no_validation_problem_is_trained_on_by_anyone() -> None:
    splits = {name: {each.problem for each in problems} for name, problems in chain_splits().items()}
    assert {name: len(problems) for name, problems in splits.items()} == {"train": 2000, "validation": 400, "test": 500}
    assert not splits["validation"] & (splits["train"] | splits["test"] | warm_up_problems())
    assert not splits["test"] & (splits["train"] | warm_up_problems())


def test_the_warm_ups_problems_are_the_draws_of_its_program() -> None:
    """One generator draws all batches in the order of the phases, as `warm_up` asks for them."""
    rng, held_out, asked = random.Random(0), {chain.problem for chain in chains_of("test")}, []
    for phase in PHASES:
        for _ in range(phase.steps):
            asked += [prompt for prompt, _ in draw_examples(held_out, rng, BATCH_SIZE, phase.sloppy)]
    assert {TEMPLATE.format(problem=problem) for problem in warm_up_problems()} == set(asked)
    assert len(warm_up_problems()) > 10_000


def test_problems_of_reasoning_gym_are_disjoint() -> None:
    pytest.importorskip("reasoning_gym", reason="needs the extra `gym`")
    from benchmarks.study.tasks import gym_splits

    splits = {name: {each.problem for each in problems} for name, problems in gym_splits().items()}
    assert {name: len(problems) for name, problems in splits.items()} == {"train": 2000, "validation": 400, "test": 500}
    assert not splits["validation"] & (splits["train"] | splits["test"]) and not splits["test"] & splits["train"]


def test_problems_are_read_as_they_were_written(tmp_path: Path) -> None:
    problem = Problem("a/1", "1+1=?", "2", "a", {"level": 3})
    write_problems(tmp_path / "a.jsonl", [problem], "train")
    (read,) = FileProblems(str(tmp_path / "a.jsonl")).load()
    assert (read.id, read.problem, read.answer, read.fields["split"], read.fields["level"]) == (
        *("a/1", "1+1=?", "2", "train"),
        3,
    )
    assert json.loads((tmp_path / "a.jsonl").read_text())["split"] == "train"


@pytest.mark.parametrize(
    ("text", "reward", "correct"),
    [
        (r"76+4=80,80-9=71,\boxed{71}", 1.0, True),
        (r"\boxed{71}", 1.0, True),
        (r"76+4=80,80-9=72,\boxed{72}", 0.25, False),
        (r"76+4=81,81-9=71,\boxed{72}", 0.0, False),
        ("76+4=80,80-9=71", 0.5, False),
        ("", 0.0, False),
    ],
)
def test_partial_credit_is_half_of_the_share_of_right_first_steps(text: str, reward: float, correct: bool) -> None:
    score = partial_credit(Response(Problem("1", "76+4-9=?", "71"), text))
    assert (score.reward, score.correct) == (reward, correct)


def test_a_noisy_grader_errs_on_its_share_of_training_responses_and_on_no_others() -> None:
    texts = [rf"\boxed{{{number}}}" for number in range(2000)]

    def graded(split: str) -> list[bool]:
        problem = Problem("1", "1+1=?", "2", fields={"split": split})
        reward = NoisyReward(0.1)
        try:
            return [score.correct for score in reward.score([Response(problem, text) for text in texts])]
        finally:
            reward.close()

    right = [text == r"\boxed{2}" for text in texts]
    assert graded("test") == right
    once = graded(TRAIN)
    assert graded(TRAIN) == once, "the same response was graded in two ways"
    share = sum(one != other for one, other in zip(once, right, strict=True)) / len(texts)
    assert abs(share - 0.1) < 4 * math.sqrt(0.1 * 0.9 / len(texts))
