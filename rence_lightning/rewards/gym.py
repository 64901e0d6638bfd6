"""The reward of reasoning-gym's problems: the score that the data set itself gives to the final answer."""

import ast
import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from rence_lightning.errors import UserError, install_extra
from rence_lightning.parts import Problem, last_boxed
from rence_lightning.rewards.grading import guard
from rence_lightning.rewards.grading.pool import GraderPool
from rence_lightning.rewards.reward import DECIMALS, Response, Reward, Score


class GymReward(Reward):
    r"""Grades the final answer of a response by the `score_answer` of its data set; it needs the extra `gym`.

    The reward is that score, from 0 to 1, with the partial credit that many tasks give. The final answer is in the last
    `\boxed{...}`, and a response without one has 0. Answers are graded in processes that can be killed, because some
    tasks compute with what the policy wrote.

    Args:
        correct_from: Smallest score of an answer that counts as correct.
        workers: Number of grading processes of each rank.
        timeout: Seconds of CPU time for an answer. An answer that takes longer has 0 in this batch;
            `rollouts/grading_timeouts` counts these.

    Raises:
        UserError: `correct_from` is not in (0, 1], `workers` or `timeout` is not positive, or reasoning-gym is not
            installed.
    """

    def __init__(self, correct_from: float = 1.0, workers: int = 1, timeout: float = 2.0) -> None:
        if not 0 < correct_from <= 1:
            raise UserError(f"reward: correct_from is {correct_from}; it must be in (0, 1]")
        if importlib.util.find_spec("reasoning_gym") is None:
            raise UserError(f"GymReward: reasoning-gym is not installed; {install_extra('gym')}")
        self.correct_from = correct_from
        self.pool = GraderPool(workers, timeout, judge="gym")

    def score(self, responses: Sequence[Response]) -> list[Score]:
        """Grades responses; see `Reward.score`.

        Raises:
            UserError: A problem does not come from `GymProblems`.
            RuntimeError: No grading worker can be started.
        """
        boxes = [last_boxed(response.text) for response in responses]
        answers = [None if box is None else box.strip() for box in boxes]
        problems = [_graded_by(response.problem) for response in responses]
        grades = self.pool.grade(list(zip(problems, answers, strict=True)))
        return [
            Score(grade, answer is not None and round(grade, DECIMALS) >= round(self.correct_from, DECIMALS), answer)
            for answer, grade in zip(answers, grades, strict=True)
        ]

    @property
    def label(self) -> str:
        return f"{super().label} (correct from {self.correct_from:g})"

    def figures(self) -> dict[str, float]:
        return self.pool.figures()

    def close(self) -> None:
        """Ends the grading processes, which start again when they are needed."""
        self.pool.close()


def _graded_by(problem: Problem) -> str:
    """What a grading worker needs to know of a problem."""
    try:
        return json.dumps({name: problem.fields[name] for name in ("task", "settings", "entry")}, sort_keys=True)
    except KeyError as error:
        raise UserError(
            f"GymReward: the problem {problem.id!r} has no field {error}: it grades problems of "
            "rence_lightning.prompts.GymProblems alone"
        ) from error


def load_judge() -> Callable[[str, str], float]:
    """Imports reasoning-gym in a grading worker, and restricts what its grading executes there, for good.

    Some `score_answer` methods pass the text of an answer to `eval` or to sympy's `parse_expr`. The first then reads
    literals only, and the second expressions of numbers, variables of one letter and a list of functions.
    """
    import reasoning_gym  # noqa: F401 (registers the data sets)

    guard.restrict_sympy(guard.EXPRESSION)
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "reasoning_gym":
            module.eval = ast.literal_eval  # type: ignore[attr-defined]
    return _grade


def _grade(problem: str, answer: str) -> float:
    """The score of an answer in [0, 1]; an answer on which `score_answer` fails has 0."""
    request = json.loads(problem)
    try:
        data_set = _data_set(request["task"], json.dumps(request["settings"]))
        score = float(data_set.score_answer(answer, ast.literal_eval(request["entry"])))
    except Exception:  # score_answer fails on text that it does not understand, in as many ways as there are tasks
        return 0.0
    return score if 0 <= score <= 1 else 0.0


@lru_cache(maxsize=256)
def _data_set(task: str, settings: str) -> Any:
    from reasoning_gym.factory import create_dataset

    return create_dataset(task, **json.loads(settings), seed=0, size=1)
