r"""The reward of mathematics with verifiable answers: 1 boxed and correct, 0.1 boxed and wrong, 0 without a box."""

import threading
from collections.abc import Sequence

from rence_lightning.errors import UserError
from rence_lightning.rewards.base import Response, Reward, Score
from rence_lightning.rewards.grading.pool import GraderPool, Judge
from rence_lightning.text import last_boxed


class MathReward(Reward):
    r"""Compare the last `\boxed{...}` of a response with the reference answer.

    Args:
        correct: Reward of a boxed answer that is right.
        wrong: Reward of a boxed answer that is wrong.
        unboxed: Reward of a response without a box.
        workers: Number of grading processes of each rank.
        timeout: Seconds of CPU time for an answer. An answer that takes longer counts as wrong, and is judged anew when
            it comes again; `rollouts/grading_timeouts` counts these. The limit does not depend on how busy the machine
            is. An ordinary answer takes a few hundredths of a second.
        judge: Judge of answers: `rules` accepts more spellings (docs/evaluation.md lists them), and `math_verify` is
            math-verify alone, for figures that compare with those of projects that use it.

    Raises:
        UserError: If a correct answer would not earn the most, a reward is not in [0, 1], or `workers` or `timeout` is
            not positive.
    """

    def __init__(
        self,
        correct: float = 1.0,
        wrong: float = 0.1,
        unboxed: float = 0.0,
        workers: int = 2,
        timeout: float = 1.0,
        judge: Judge = "rules",
    ) -> None:
        if not correct > max(wrong, unboxed):
            raise UserError(f"reward: correct={correct} must be greater than wrong={wrong} and unboxed={unboxed}")
        if not (correct <= 1 and wrong >= 0 and unboxed >= 0):
            raise UserError(f"reward: correct={correct}, wrong={wrong} and unboxed={unboxed} must be from 0 to 1")
        self.correct, self.wrong, self.unboxed = correct, wrong, unboxed
        self.pool = GraderPool(workers, timeout, judge=judge)
        self._counted = (0, 0)

    def score(self, responses: Sequence[Response]) -> list[Score]:
        """Scores responses; see `Reward.score`. Equal pairs of reference and answer are judged once.

        Raises:
            RuntimeError: If no grading worker can be started.
        """
        answers = [last_boxed(response.text) for response in responses]
        gold = [response.problem.answer for response in responses]
        pairs = {index: (gold[index], answer) for index, answer in enumerate(answers) if answer is not None}
        right = dict(zip(pairs, self.pool.judge(list(pairs.values())), strict=True))
        return [self._score(answer, right.get(index, False)) for index, answer in enumerate(answers)]

    @property
    def label(self) -> str:
        return super().label if self.pool.kind == "rules" else f"{super().label} ({self.pool.kind})"

    def same(self, answers: Sequence[tuple[str, str]]) -> list[bool]:
        return self.pool.judge(answers)

    def figures(self) -> dict[str, float]:
        now, before = (self.pool.timeouts, self.pool.crashes), self._counted
        self._counted = now
        return {"grading_timeouts": float(now[0] - before[0]), "grading_crashes": float(now[1] - before[1])}

    def _score(self, answer: str | None, right: bool) -> Score:
        if answer is None:
            return Score(self.unboxed, False, None)
        return Score(self.correct if right else self.wrong, right, answer)

    def close(self) -> None:
        """End the grading processes, which start again when they are needed."""
        self.pool.close()


_default_pool: GraderPool | None = None
_default_lock = threading.Lock()


def math_equivalent(gold: str, prediction: str) -> bool:
    r"""Tell whether a final answer equals the reference, in bounded time and memory, from any thread.

    Both are LaTeX or plain text, with or without `$...$`, without `\boxed`. The rules are those of
    `rence_lightning.rewards.grading.equivalence`. No string makes this raise. A judgement that takes
    more than 0.9 s of CPU time returns False.

    Raises:
        RuntimeError: If no grading worker can be started, which no answer can cause.
    """
    global _default_pool
    with _default_lock:
        if _default_pool is None:
            _default_pool = GraderPool(workers=1, timeout=0.9)
    return _default_pool.judge([(gold, prediction)])[0]
