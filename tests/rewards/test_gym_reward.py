"""The reward of reasoning-gym: its own scores, partial credit too, and no answer that runs or hangs."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rence_lightning.errors import UserError
from rence_lightning.problem import Problem
from rence_lightning.prompts import GymProblems, GymTask
from rence_lightning.prompts.gym import ANY_ANSWER
from rence_lightning.prompts.gym_generation import NOT_OFFERED
from rence_lightning.rewards import GymReward, Response, Score

# Short texts, long ones, grids, expressions that are parsed, and entries with tuples (arc_agi, rearc).
TASKS = (
    *("chain_sum", "gcd", "spell_backward", "number_sorting", "letter_counting", "spiral_matrix", "string_insertion"),
    *("n_queens", "countdown", "puzzle24", "simple_integration", "intermediate_integration", "rearc"),
    *("polynomial_multiplication", "binary_matrix", "prime_factorization", "knights_knaves", "syllogism"),
)


@pytest.fixture(scope="module")
def reward() -> Iterator[GymReward]:
    reward = GymReward()
    yield reward
    reward.close()


@pytest.fixture(scope="module")
def problems() -> dict[str, list[Problem]]:
    found: dict[str, list[Problem]] = {}
    for problem in GymProblems({task: GymTask() for task in TASKS}, size=2 * len(TASKS)).load():
        found.setdefault(problem.source, []).append(problem)
    return found


def boxed(problem: Problem, answer: str) -> Response:
    return Response(problem, rf"Let me see ... \boxed{{{answer}}}")


@pytest.mark.parametrize("task", TASKS)
def test_its_own_answer_has_one_and_a_wrong_one_less(
    task: str, reward: GymReward, problems: dict[str, list[Problem]]
) -> None:
    assert len(problems[task]) == 2
    for problem in problems[task]:
        assert reward.score([boxed(problem, problem.answer)]) == [Score(1.0, True, problem.answer.strip())]
        (wrong,) = reward.score([boxed(problem, "no idea")])
        assert 0 <= wrong.reward < 1
        assert not wrong.correct


@pytest.mark.slow
def test_every_generator_that_is_offered_grades_its_own_answer_as_right(reward: GymReward) -> None:
    from reasoning_gym.factory import DATASETS

    names = sorted(DATASETS.keys() - NOT_OFFERED.keys())
    problems = GymProblems({name: GymTask() for name in names}, size=len(names)).load()
    assert [problem.source for problem in sorted(problems, key=lambda each: each.source)] == names
    own = [problem for problem in problems if problem.answer != ANY_ANSWER]
    assert len(own) > 90
    scores = reward.score([boxed(problem, problem.answer) for problem in own])
    assert [problem.source for problem, score in zip(own, scores, strict=True) if score.reward != 1] == []


def test_scores_are_those_of_the_library_with_partial_credit(
    reward: GymReward, problems: dict[str, list[Problem]]
) -> None:
    import reasoning_gym

    (problem, _) = problems["spell_backward"]
    answers = [problem.answer[:length] for length in range(len(problem.answer) + 1)]
    library = reasoning_gym.create_dataset("spell_backward")
    expected = [library.score_answer(answer, problem.fields["entry"]) for answer in answers]
    scores = reward.score([boxed(problem, answer) for answer in answers])
    assert [score.reward for score in scores] == pytest.approx(expected)
    assert len(set(expected)) > 2, "the task gives no partial credit"
    assert [score.correct for score in scores] == [False] * (len(answers) - 1) + [True]
    lenient = GymReward(correct_from=0.3)
    passed = [score.correct for score in lenient.score([boxed(problem, answer) for answer in answers])]
    lenient.close()
    assert passed == [share >= 0.3 for share in expected]


def test_only_the_form_that_was_asked_for_is_an_answer(reward: GymReward, problems: dict[str, list[Problem]]) -> None:
    problem = problems["gcd"][0]
    bare, tagged = Response(problem, problem.answer), Response(problem, f"<answer> {problem.answer} </answer>")
    assert reward.score([bare, tagged]) == [Score(0.0, False), Score(0.0, False)]
    asks_for_tags = replace(problem, fields={**problem.fields, "response_format": "tags"})
    assert reward.score([Response(asks_for_tags, tagged.text)]) == [Score(1.0, True, problem.answer)]
    assert reward.score([boxed(asks_for_tags, problem.answer)]) == [Score(0.0, False)]


def test_a_problem_that_went_through_a_file_is_graded_alike(
    reward: GymReward, problems: dict[str, list[Problem]]
) -> None:
    for problem in (problems["rearc"][0], problems["countdown"][0]):
        again = replace(problem, fields=json.loads(json.dumps(problem.fields)))
        assert reward.score([boxed(again, problem.answer)])[0].reward == 1.0


def test_problems_without_an_answer_of_their_own_load() -> None:
    (problem,) = GymProblems("graph_color", size=1).load()
    assert problem.answer == "(every answer that score_answer accepts)"
    assert problem.fields["entry"]["answer"] is None


HOSTILE = [
    "__import__('os').system('touch pwned')",
    "[open('pwned', 'w') for _ in range(1)]",
    "[c for c in ().__class__.__base__.__subclasses__()]",
    "x.__class__",
    "Lambda(x, x)(Symbol('y'))",
    "lambdify(x, x)",
    "9**9**9**9",
    "factorial(100000000)",
    "(" * 5000 + "1" + ")" * 5000,
    "[" * 5000 + "]" * 5000,
    "1e999999999",
    "\x00",
    "\ud800",
    "",
    "[]" * 100_000,
]


@pytest.mark.parametrize("answer", HOSTILE, ids=lambda answer: ascii(answer[:24]))
def test_a_hostile_answer_is_wrong_and_runs_nothing(
    answer: str, problems: dict[str, list[Problem]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    reward = GymReward(timeout=1.0)
    begin = time.monotonic()
    for task in ("string_insertion", "n_queens", "countdown", "simple_integration", "polynomial_multiplication"):
        (score,) = reward.score([Response(problems[task][0], rf"\boxed{{{answer}}}")])
        assert not score.correct
        assert score.reward < 0.2
    assert time.monotonic() - begin < 300
    assert list(tmp_path.iterdir()) == []
    right = problems["gcd"][0]
    assert reward.score([boxed(right, right.answer)])[0].correct
    reward.close()


@given(text=st.text())
@settings(max_examples=200, deadline=None)
def test_any_text_has_a_score_from_zero_to_one(
    text: str, reward: GymReward, problems: dict[str, list[Problem]]
) -> None:
    for score in reward.score([boxed(problems[task][0], text) for task in TASKS]):
        assert 0 <= score.reward <= 1
        assert not score.correct or score.reward == 1


def test_an_answer_that_takes_too_long_is_counted(problems: dict[str, list[Problem]]) -> None:
    reward = GymReward(timeout=0.5)
    (score,) = reward.score([boxed(problems["countdown"][0], "9**9**9")])
    assert score == Score(0.0, False, "9**9**9")
    assert sum(reward.figures().values()) == 1
    assert sum(reward.figures().values()) == 0
    reward.close()


def test_problems_of_another_source_are_refused(reward: GymReward) -> None:
    with pytest.raises(UserError, match="'1' has no field 'response_format': it grades problems of"):
        reward.score([Response(Problem("1", "1 + 1", "2"), "2")])


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_an_impossible_threshold_is_refused(share: float) -> None:
    with pytest.raises(UserError, match="correct_from is"):
        GymReward(correct_from=share)


def test_a_missing_reasoning_gym_is_said_with_the_way_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"GymReward: reasoning-gym is not installed; .*gym"):
        GymReward()
