"""The reward of reasoning-gym's problems: the score that the data set itself gives to the final answer."""

import importlib.util
import json
from collections.abc import Sequence

from rence_lightning.errors import UserError
from rence_lightning.problem import Problem
from rence_lightning.rewards.base import Response, Reward, Score
from rence_lightning.rewards.grading.pool import GraderPool
from rence_lightning.text import RESPONSE_FORMATS, install_extra


class GymReward(Reward):
    """Grades the final answer of a response by the `score_answer` of its data set; it needs the extra `gym`.

    The reward is that score, from 0 to 1, with the partial credit that many tasks give. A response without a final
    answer in the form of its problem has 0. Answers are graded in processes that can be killed, because some tasks
    compute with what the policy wrote.

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
        self._counted = (0, 0)

    def score(self, responses: Sequence[Response]) -> list[Score]:
        """Grades responses; see `Reward.score`.

        Raises:
            UserError: A problem does not come from `GymProblems`.
            RuntimeError: No grading worker can be started.
        """
        answers = [_answer(response) for response in responses]
        pairs = {
            index: (_graded_by(responses[index].problem), answer)
            for index, answer in enumerate(answers)
            if answer is not None
        }
        grades = dict(zip(pairs, self.pool.grade(list(pairs.values())), strict=True))
        return [self._score(grades.get(index, 0.0), answer) for index, answer in enumerate(answers)]

    @property
    def label(self) -> str:
        return f"{super().label} (correct from {self.correct_from:g})"

    def _score(self, grade: float, answer: str | None) -> Score:
        return Score(grade, answer is not None and grade >= self.correct_from, answer)

    def figures(self) -> dict[str, float]:
        now, before = (self.pool.timeouts, self.pool.crashes), self._counted
        self._counted = now
        return {"grading_timeouts": float(now[0] - before[0]), "grading_crashes": float(now[1] - before[1])}

    def close(self) -> None:
        """Ends the grading processes, which start again when they are needed."""
        self.pool.close()


def _answer(response: Response) -> str | None:
    """The final answer, without blanks around it; None where there is none."""
    answer = RESPONSE_FORMATS[str(_field(response.problem, "response_format"))].parse(response.text)
    return None if answer is None else answer.strip()


def _graded_by(problem: Problem) -> str:
    """What a grading worker needs to know of a problem."""
    return json.dumps({name: _field(problem, name) for name in ("task", "settings", "entry")}, sort_keys=True)


def _field(problem: Problem, name: str) -> object:
    if name not in problem.fields:
        raise UserError(
            f"GymReward: the problem {problem.id!r} has no field {name!r}: it grades problems of "
            "rence_lightning.prompts.GymProblems alone"
        )
    return problem.fields[name]
