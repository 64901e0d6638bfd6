"""Problems of reasoning-gym: the same everywhere, different, disjoint between the splits, mixed by weight."""

import ast
import os
import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rence_lightning.errors import UserError
from rence_lightning.prompts import GymProblems, GymTask
from rence_lightning.prompts.gym import quotas
from rence_lightning.prompts.gym_generation import generate, split_of

SHORT_SUMS = GymTask(settings={"max_terms": 2, "max_digits": 1})


@given(st.dictionaries(st.text(min_size=1), st.floats(0.01, 100), min_size=1, max_size=8), st.integers(1, 5000))
def test_quotas_follow_the_weights_and_sum_to_the_size(weights: dict[str, float], size: int) -> None:
    counts = quotas(weights, size)
    assert sum(counts.values()) == size
    for name, weight in weights.items():
        assert abs(counts[name] - size * weight / sum(weights.values())) < 1 + 1e-6


def test_a_mixture_has_the_shares_of_its_weights_and_leaves_the_generator_of_the_run_alone() -> None:
    before = random.getstate()
    tasks = {"gcd": GymTask(3.0), "lcm": GymTask(1.0), "count_bits": GymTask(1.0)}
    sources = [problem.fields["task"] for problem in GymProblems(tasks, size=50).load()]
    assert {task: sources.count(task) for task in tasks} == {"gcd": 30, "lcm": 10, "count_bits": 10}
    assert sources != sorted(sources), "the tasks follow one another instead of being mixed"
    assert random.getstate() == before


@pytest.mark.slow
def test_no_question_is_in_two_splits_whatever_seed_and_settings() -> None:
    train = GymProblems({"chain_sum": SHORT_SUMS}, size=140).load()
    wide = GymTask(settings={"max_terms": 3, "max_digits": 1})
    test = GymProblems({"chain_sum": SHORT_SUMS}, split="test", size=25, seed=3).load()
    test += GymProblems({"chain_sum": wide}, split="test", size=60).load()
    asked = {problem.problem for problem in train}
    assert len(asked) == len({problem.id for problem in train}) == 140, "a problem occurs twice"
    assert asked.isdisjoint(problem.problem for problem in test)


def test_about_a_fifth_of_the_questions_is_held_out() -> None:
    assert 1900 < sum(split_of(f"Calculate {number} + 1.") == "test" for number in range(10_000)) < 2100


@pytest.mark.slow
def test_problems_are_the_same_in_every_process() -> None:
    """These generators iterate over sets of text, or draw from the global generators of random numbers."""
    tasks = ("ransom_note", "isomorphic_strings", "polynomial_multiplication", "pool_matrix")
    mixture = f"{{name: GymTask() for name in {tasks}}}"
    program = (
        "import random, hashlib; random.seed(); from rence_lightning.prompts import GymProblems, GymTask;"
        f"print(hashlib.sha256(repr(GymProblems({mixture}, size=20).load()).encode()).hexdigest())"
    )
    environments = [{**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)} for seed in "12"]
    run = [
        subprocess.run([sys.executable, "-c", program], env=e, capture_output=True, check=True) for e in environments
    ]
    assert run[0].stdout == run[1].stdout != b""


def test_entries_are_those_of_the_library() -> None:
    """Generated again by reasoning-gym itself, from the index and the seed that the source used."""
    import reasoning_gym

    (problem,) = GymProblems("gcd", size=1, instruction="Write it down.").load()
    entry = ast.literal_eval(problem.fields["entry"])
    seed = random.Random("gcd/train/0").randrange(2**31)
    assert reasoning_gym.create_dataset("gcd", seed=seed, size=4096)[entry["metadata"]["source_index"]] == entry
    assert (problem.problem, problem.answer) == (f"{entry['question']}\nWrite it down.", entry["answer"])


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ("chain_sums", {}, r"chain_sums: no such generator \(did you mean chain_sum\?\)"),
        ("game_of_life_halting", {}, "game_of_life_halting: its score_answer takes every text for right"),
        ("chain_sum", {"max_trems": 3}, r"no setting 'max_trems' \(did you mean max_terms\?\)"),
        ("chain_sum", {"max_terms": 1}, "refuses its settings: max_terms must be >= min_terms"),
        ("chain_sum", SHORT_SUMS.settings, r"has only about 1\d\d different questions .* and 1000 are wanted"),
    ],
)
def test_what_a_generator_cannot_do_is_said(task: str, settings: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(generate(task, settings, "train", 0, 1000))


def test_the_message_of_the_generating_process_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^GymProblems: chain_sums: no such generator \(did you mean chain_sum\?\)$"):
        GymProblems("chain_sums").load()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": {}}, "tasks is empty"),
        ({"tasks": {"gcd": GymTask(0.0)}}, "weight is 0.0, it must be positive"),
        ({"tasks": "gcd", "split": "dev"}, "no split 'dev'; choose one of: train, test"),
        ({"tasks": "gcd", "size": 0}, "size is 0, it must be at least 1"),
    ],
)
def test_bad_arguments_are_refused_at_once(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        GymProblems(**arguments)  # type: ignore[arg-type]


def test_a_missing_reasoning_gym_is_said_with_the_way_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"reasoning-gym is not installed; .*gym"):
        GymProblems("gcd").load()
