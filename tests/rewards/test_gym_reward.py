"""The reward of reasoning-gym: its own scores, partial credit too, and no answer that runs or hangs."""

import ast
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rence_lightning.errors import UserError
from rence_lightning.parts import Problem
from rence_lightning.prompts import GymProblems, GymTask
from rence_lightning.prompts.gym import ANY_ANSWER
from rence_lightning.prompts.gym_generation import NOT_OFFERED
from rence_lightning.rewards import GymReward, Response, Score

# Short texts, long ones, grids, expressions that are parsed, and entries with tuples (rearc).
TASKS = (
    *("gcd", "spell_backward", "letter_counting", "spiral_matrix", "string_insertion", "n_queens", "countdown"),
    *("simple_integration", "rearc", "polynomial_multiplication", "prime_factorization", "knights_knaves"),
)


@pytest.fixture(scope="module")
def reward() -> Iterator[GymReward]:
    reward = GymReward()
    yield reward
    reward.close()


@pytest.fixture(scope="module")
def problems() -> dict[str, Problem]:
    mixture = GymProblems({task: GymTask() for task in TASKS}, size=len(TASKS)).load()
    return {problem.source: problem for problem in mixture}


def boxed(problem: Problem, answer: str) -> Response:
    return Response(problem, rf"Let me see ... \boxed{{{answer}}}")


def test_its_own_answer_has_one_and_a_wrong_one_less(reward: GymReward, problems: dict[str, Problem]) -> None:
    """Also where the problem went through a file."""
    assert problems.keys() == set(TASKS)
    for problem in problems.values():
        again = replace(problem, fields=json.loads(json.dumps(problem.fields)))
        own, wrong, bare = reward.score([boxed(again, problem.answer), boxed(problem, "x"), Response(problem, "x")])
        assert own == Score(1.0, True, problem.answer.strip())
        assert 0 <= wrong.reward < 1 and not wrong.correct
        assert bare == Score(0.0, False)


@pytest.mark.slow
def test_every_generator_that_is_offered_grades_its_own_answer_as_right(reward: GymReward) -> None:
    from reasoning_gym.factory import DATASETS

    names = sorted(DATASETS.keys() - NOT_OFFERED.keys())
    problems = GymProblems({name: GymTask() for name in names}, size=len(names)).load()
    assert [problem.source for problem in sorted(problems, key=lambda each: each.source)] == names
    own = [problem for problem in problems if problem.answer != ANY_ANSWER]
    assert len(own) > 90 and "graph_color" not in {problem.source for problem in own}
    scores = reward.score([boxed(problem, problem.answer) for problem in own])
    assert [problem.source for problem, score in zip(own, scores, strict=True) if score.reward != 1] == []


def test_scores_are_those_of_the_library_with_partial_credit(reward: GymReward, problems: dict[str, Problem]) -> None:
    import reasoning_gym

    problem = problems["spell_backward"]
    answers = [problem.answer[:length] for length in range(len(problem.answer) + 1)]
    library, entry = reasoning_gym.create_dataset("spell_backward"), ast.literal_eval(problem.fields["entry"])
    expected = [library.score_answer(answer, entry) for answer in answers]
    scores = reward.score([boxed(problem, answer) for answer in answers])
    assert [score.reward for score in scores] == pytest.approx(expected)
    assert len(set(expected)) > 2, "the task gives no partial credit"
    assert [score.correct for score in scores] == [False] * (len(answers) - 1) + [True]
    lenient = GymReward(correct_from=0.3)
    passed = [score.correct for score in lenient.score([boxed(problem, answer) for answer in answers])]
    lenient.close()
    assert passed == [share >= 0.3 for share in expected]


HOSTILE = [
    "__import__('os').system('touch pwned')",
    "[c for c in ().__class__.__base__.__subclasses__()]",
    "x.__class__",
    "Lambda(x, x)(Symbol('y'))",
    "9**9**9**9",
    "(" * 5000 + "1" + ")" * 5000,
    "\x00",
    "\ud800",
    "[]" * 100_000,
]


def test_a_hostile_answer_is_wrong_and_runs_nothing(
    problems: dict[str, Problem], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    reward = GymReward(timeout=0.3)
    tasks = ("n_queens", "countdown", "simple_integration")
    responses = [Response(problems[task], rf"\boxed{{{answer}}}") for task in tasks for answer in HOSTILE]
    for response, score in zip(responses, reward.score(responses), strict=True):
        assert not score.correct and score.reward < 0.2, response
    assert list(tmp_path.iterdir()) == []
    assert reward.figures()["grading_timeouts"] > 0 and sum(reward.figures().values()) == 0
    right = problems["gcd"]
    assert reward.score([boxed(right, right.answer)])[0].correct
    reward.close()


@given(text=st.text())
@settings(max_examples=60, deadline=None)
def test_any_text_has_a_score_from_zero_to_one(text: str, reward: GymReward, problems: dict[str, Problem]) -> None:
    for score in reward.score([boxed(problem, text) for problem in problems.values()]):
        assert 0 <= score.reward <= 1
        assert not score.correct or score.reward == 1


def test_problems_of_another_source_impossible_thresholds_and_a_missing_package_are_refused(
    reward: GymReward, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="'1' has no field 'task': it grades problems of"):
        reward.score([Response(Problem("1", "1 + 1", "2"), "2")])
    for share in (0.0, 1.5):
        with pytest.raises(UserError, match="correct_from is"):
            GymReward(correct_from=share)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"GymReward: reasoning-gym is not installed; .*gym"):
        GymReward()
