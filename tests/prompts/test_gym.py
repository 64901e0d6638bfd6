"""Problems of reasoning-gym: the same everywhere, different, disjoint between the splits, mixed by weight."""

import json
import os
import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rence_lightning.errors import UserError
from rence_lightning.json_values import from_json, to_json
from rence_lightning.prompts import GymProblems, GymTask
from rence_lightning.prompts.gym import quotas
from rence_lightning.prompts.gym_generation import generate, split_of
from rence_lightning.text import RESPONSE_FORMATS, last_tagged

SHORT_SUMS = GymTask(settings={"max_terms": 2, "max_digits": 1})

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers() | st.tuples(st.integers()), inner)
        | st.dictionaries(st.sampled_from(["__tuple__", "__pairs__"]), inner)
    ),
    max_leaves=20,
)


@given(values)
def test_values_survive_json(value: object) -> None:
    again = from_json(json.loads(json.dumps(to_json(value))))
    assert again == value
    assert type(again) is type(value)


def test_what_json_cannot_hold_is_refused() -> None:
    with pytest.raises(TypeError, match="set cannot be written as JSON"):
        to_json({"names": {"a"}})


@given(st.dictionaries(st.text(min_size=1), st.floats(0.01, 100), min_size=1, max_size=8), st.integers(1, 5000))
def test_quotas_follow_the_weights_and_sum_to_the_size(weights: dict[str, float], size: int) -> None:
    counts = quotas(weights, size)
    assert sum(counts.values()) == size
    for name, weight in weights.items():
        assert abs(counts[name] - size * weight / sum(weights.values())) < 1


def test_a_mixture_has_the_shares_of_its_weights() -> None:
    tasks = {"gcd": GymTask(3.0), "lcm": GymTask(1.0), "count_bits": GymTask(1.0)}
    problems = GymProblems(tasks, size=50).load()
    sources = [problem.source for problem in problems]
    assert {task: sources.count(task) for task in tasks} == {"gcd": 30, "lcm": 10, "count_bits": 10}
    assert sources != sorted(sources), "the tasks follow one another instead of being mixed"
    assert all(problem.fields["task"] == problem.source for problem in problems)


def test_no_question_is_in_two_splits_whatever_seed_and_settings() -> None:
    train = GymProblems({"chain_sum": SHORT_SUMS}, size=140).load()
    test = [
        GymProblems({"chain_sum": SHORT_SUMS}, split="test", size=25, seed=3).load(),
        GymProblems({"chain_sum": GymTask(settings={"max_terms": 3, "max_digits": 1})}, split="test", size=60).load(),
    ]
    asked = {problem.problem for problem in train}
    assert len(asked) == len({problem.id for problem in train}) == 140, "a problem occurs twice"
    for held_out in test:
        assert asked.isdisjoint(problem.problem for problem in held_out)
        assert len({problem.problem for problem in held_out}) == len(held_out)


@given(st.text())
def test_a_question_has_one_split_and_blanks_do_not_change_it(question: str) -> None:
    assert split_of(question) == split_of(f"  {question}\n") in ("train", "test")


def test_about_a_fifth_of_the_questions_is_held_out() -> None:
    held_out = sum(split_of(f"Calculate {number} + 1.") == "test" for number in range(10_000))
    assert 1900 < held_out < 2100


@pytest.mark.parametrize("task", ["ransom_note", "isomorphic_strings", "polynomial_multiplication", "pool_matrix"])
def test_problems_are_the_same_in_every_process(task: str) -> None:
    """These generators iterate over sets of text, or draw from the global generators of random numbers."""
    program = (
        f"import random; random.seed(); from rence_lightning.prompts import GymProblems; import hashlib;"
        f"print(hashlib.sha256(repr(GymProblems({task!r}, size=5).load()).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_loading_leaves_the_generator_of_the_run_alone() -> None:
    before = random.getstate()
    first = GymProblems("gcd", size=3).load()
    assert random.getstate() == before
    assert GymProblems("gcd", size=3).load() == first
    assert GymProblems("gcd", size=3, seed=1).load() != first


def test_the_form_of_the_answer_is_asked_for_in_the_problem() -> None:
    (boxed,) = GymProblems("gcd", size=1).load()
    assert boxed.problem.endswith("\n" + RESPONSE_FORMATS["boxed"].instruction)
    assert boxed.fields["response_format"] == "boxed"
    (tags,) = GymProblems("gcd", size=1, response_format="tags", instruction="").load()
    assert tags.problem == boxed.problem.removesuffix("\n" + RESPONSE_FORMATS["boxed"].instruction)
    assert tags.fields["response_format"] == "tags"
    assert tags.id == boxed.id


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>4</answer>", "4"),
        ("<answer>1</answer> no, <answer>2</answer>", "2"),
        ("<answer>1<answer>2</answer>", "2"),
        ("<answer>1</answer> and <answer>2", "1"),
        ("</answer><answer>", None),
        ("no answer", None),
        ("<answer></answer>", ""),
    ],
)
def test_the_last_tags_count(text: str, answer: str | None) -> None:
    assert last_tagged(text) == answer


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ("chain_sums", r"chain_sums: no such generator \(did you mean chain_sum\?\)"),
        ("game_of_life_halting", "game_of_life_halting: its score_answer takes every text for right"),
        ({"chain_sum": GymTask(settings={"max_trems": 3})}, r"no setting 'max_trems' \(did you mean max_terms\?\)"),
        ({"chain_sum": GymTask(settings={"max_terms": 1})}, "refuses its settings: max_terms must be >= min_terms"),
        ({"chain_sum": GymTask(settings={"seed": 1})}, "seed is an argument of GymProblems"),
        ({"chain_sum": SHORT_SUMS}, r"has only about 1\d\d different questions .* and 1000 are wanted"),
    ],
)
def test_what_a_generator_cannot_do_is_said_in_one_line(tasks: str | dict[str, GymTask], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        GymProblems(tasks, size=1000).load()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": {}}, "tasks is empty"),
        ({"tasks": {"gcd": GymTask(0.0)}}, "weight is 0.0, it must be positive"),
        ({"tasks": "gcd", "split": "dev"}, "no split 'dev'; choose one of: train, test"),
        ({"tasks": "gcd", "size": 0}, "size is 0, it must be at least 1"),
        ({"tasks": "gcd", "response_format": "box"}, r"no response_format 'box' \(did you mean boxed\?\)"),
    ],
)
def test_bad_arguments_are_refused_at_once(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        GymProblems(**arguments)  # type: ignore[arg-type]


def test_a_missing_reasoning_gym_is_said_with_the_way_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"reasoning-gym is not installed; .*gym"):
        GymProblems("gcd").load()


def test_entries_are_those_of_the_library() -> None:
    """Generated again by reasoning-gym itself, from the index and the seed that the source used."""
    import reasoning_gym

    (row,) = generate("gcd", {}, "train", 0, 1)
    index = row["entry"]["metadata"]["source_index"]
    seed = random.Random("gcd/train/0").randrange(2**31)
    entry = reasoning_gym.create_dataset("gcd", seed=seed, size=4096)[index]
    assert from_json(row["entry"]) == entry
    assert (row["question"], row["answer"]) == (entry["question"], entry["answer"])
