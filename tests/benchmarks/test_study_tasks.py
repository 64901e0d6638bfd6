"""The tasks of the studies: splits that share no problem, rewards, and errors of a grader."""

import gzip
import json
import math
import random
from itertools import product
from pathlib import Path

import pytest

from benchmarks.study import warm_start
from benchmarks.study.tasks import PROBLEMS, NoisyReward, partial_credit
from rence_lightning.errors import UserError
from rence_lightning.parts import Problem
from rence_lightning.prompts.arithmetic import chains_of
from rence_lightning.rewards import Response
from tools.make_arithmetic import draw_examples
from tools.warm_up import BATCH_SIZE, PHASES, TEMPLATE

SPLITS = {
    name: {split: file for file in PROBLEMS.glob(f"{name}-*.gz") for split in [file.name.split("-")[1].split(".")[0]]}
    for name in ("chains", "gym", "hard", "medium", "half", "easy", "sums")
}


def problems(name: str, split: str) -> list[str]:
    rows = map(json.loads, gzip.decompress(SPLITS[name][split].read_bytes()).splitlines())
    return [row["problem"] for row in rows if row["split"] == split]


@pytest.mark.parametrize("name", SPLITS)
def test_no_problem_is_in_two_splits(name: str) -> None:
    found = {split: problems(name, split) for split in SPLITS[name]}
    main = {"train": 2000, "validation": 400, "test": 500}
    sums = {"solutions": 150, "train": 600, "validation": 100, "test": 150}
    sizes = {split: len(each) for split, each in found.items()}
    assert sizes == {"chains": main, "gym": main, "sums": sums}.get(name, {"train": 200, "test": 80})
    assert len(set().union(*found.values())) == sum(len(set(each)) for each in found.values())


def test_no_word_problem_is_in_two_splits_or_a_variant_of_another(tmp_path: Path) -> None:
    """Of problems that differ in numbers or in a word one is kept; those that the rule cannot solve are left out."""
    words = ["".join(letters) for letters in product("abcdefghij", repeat=3)]
    texts = [(f"The {word} has {a} and gets {b}. {extra}", a + b) for word in words for a, b, extra in PAIRS]
    rows = [{"id": str(n), "problem": text, "answer": str(answer)} for n, (text, answer) in enumerate(texts)]
    (tmp_path / "easy").mkdir()
    for number, name in enumerate(("mawps", "asdiv", "svamp")):
        lines = "".join(json.dumps(row) + "\n" for row in rows[number::3])
        (tmp_path / "easy" / f"{name}.jsonl").write_text(lines)
    found = warm_start.splits(tmp_path)
    assert {split: len(each) for split, each in found.items()} == warm_start.SIZES
    kept = [row for each in found.values() for row in each]
    asked = {split: [row["problem"].split()[1] for row in each] for split, each in found.items()}
    evaluated = asked["train"] + asked["validation"] + asked["test"]
    assert len(set(evaluated)) == len(evaluated) and not set(evaluated) & set(asked["solutions"])
    assert not any("1000" in row["answer"] for row in kept)
    assert all(eval(row["solution"].replace("=", "==")) for row in kept)
    (tmp_path / "easy" / "svamp.jsonl").unlink()
    with pytest.raises(UserError, match=r"svamp\.jsonl: no such file; RENCE_DATA"):
        warm_start.splits(tmp_path)
    for name in ("mawps", "asdiv", "svamp"):
        (tmp_path / "easy" / f"{name}.jsonl").write_text("\n".join(lines.splitlines()[:90]))
    with pytest.raises(UserError, match=r"it has \d+ problems of one step, and 780 are needed"):
        warm_start.splits(tmp_path)


PAIRS = [(7, 5, ""), (70, 27, ""), (70, 27, "more"), (990, 10, "big"), (3, 4, "x" * 160), (3, 4, "1 more")]


def test_the_warm_up_of_the_policy_asked_no_problem_that_is_evaluated_and_none_of_the_pools() -> None:
    """One generator draws all batches in the order of the phases, as the program that made the policy does."""
    rng, held_out, asked = random.Random(0), {chain.problem for chain in chains_of("test")}, set()
    for phase in PHASES:
        for _ in range(phase.steps):
            asked |= {prompt for prompt, _ in draw_examples(held_out, rng, BATCH_SIZE, phase.sloppy)}
    assert len(asked) > 10_000
    pools = [(name, split) for name in ("hard", "medium", "half", "easy") for split in ("train", "test")]
    for name, split in [("chains", "validation"), ("chains", "test"), *pools]:
        assert not asked & {TEMPLATE.format(problem=each) for each in problems(name, split)}


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


def test_partial_credit_knows_the_steps_of_every_chain() -> None:
    for chain in chains_of("test"):
        steps = chain.solution.rsplit(",", 1)[0]
        assert partial_credit(Response(Problem("1", chain.problem, chain.answer), steps)).reward == 0.5


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
    once = graded("train")
    assert graded("train") == once, "the same response was graded in two ways"
    share = sum(one != other for one, other in zip(once, right, strict=True)) / len(texts)
    assert abs(share - 0.1) < 4 * math.sqrt(0.1 * 0.9 / len(texts))
