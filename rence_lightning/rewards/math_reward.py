r"""The reward of mathematics with verifiable answers: 1 boxed and correct, 0.1 boxed and wrong, 0 without a box."""

import functools
from collections.abc import Sequence

from rence_lightning.errors import UserError
from rence_lightning.parts import last_boxed
from rence_lightning.rewards.grading.pool import GraderPool, Judge
from rence_lightning.rewards.reward import Response, Reward, Score


class MathReward(Reward):
    r"""Compares the last `\boxed{...}` of a response with the reference answer.

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
        if not 0 <= min(wrong, unboxed) <= max(wrong, unboxed) < correct <= 1:
            raise UserError(
                f"reward: correct={correct} must be greater than wrong={wrong} and unboxed={unboxed}, all from 0 to 1"
            )
        self.correct, self.wrong, self.unboxed = correct, wrong, unboxed
        self.pool = GraderPool(workers, timeout, judge=judge)

    def score(self, responses: Sequence[Response]) -> list[Score]:
        """Scores responses; see `Reward.score`. Where no grading worker can be started, it raises a `RuntimeError`."""
        pairs = [(response.problem.answer, last_boxed(response.text)) for response in responses]
        return [
            Score(self.unboxed if answer is None else self.correct if grade else self.wrong, bool(grade), answer)
            for (_, answer), grade in zip(pairs, self.pool.grade(pairs), strict=True)
        ]

    @property
    def label(self) -> str:
        return super().label if self.pool.judge == "rules" else f"{super().label} ({self.pool.judge})"

    def same(self, answers: Sequence[tuple[str, str]]) -> list[bool]:
        return [bool(grade) for grade in self.pool.grade(answers)]

    def figures(self) -> dict[str, float]:
        return self.pool.figures()

    def close(self) -> None:
        """Ends the grading processes, which start again when they are needed."""
        self.pool.close()


def math_equivalent(gold: str, prediction: str) -> bool:
    r"""Tells whether a final answer equals the reference, in bounded time and memory, from any thread.

    Both are LaTeX or plain text, with or without `$...$`, without `\boxed`. The rules are those of
    `rence_lightning.rewards.grading.equivalence`. No string makes this raise. A judgement that takes
    more than 0.9 s of CPU time returns False.

    Raises:
        RuntimeError: If no grading worker can be started, which no answer can cause.
    """
    return bool(_default_pool().grade([(gold, prediction)])[0])


@functools.cache
def _default_pool() -> GraderPool:
    return GraderPool(workers=1, timeout=0.9)
