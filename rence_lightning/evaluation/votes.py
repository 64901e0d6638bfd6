"""Votes: which of the k answers to a problem are the same answer, for maj@k."""

from collections.abc import Callable, Sequence

from rence_lightning.rewards import Score

SameAnswers = Callable[[Sequence[tuple[str, str]]], list[bool]]
"""Whether the two answers of each pair are equal, such as `Reward.same`."""


def votes(scores: Sequence[Score], same: SameAnswers) -> list[int]:
    """Number the answers to a problem, with equal numbers for equal answers.

    Correct answers all equal the reference and therefore one another; only incorrect ones are compared.

    Args:
        scores: Scores of the k responses to the problem.
        same: Comparison of answers. Answers of the same spelling are equal whatever it returns.

    Returns:
        A number for each response, counted from 0 in the order in which answers first occur; -1 for no answer.
    """
    numbers: dict[str | None, int] = {}  # by spelling; all correct answers under None
    incorrect: dict[int, str] = {}  # the first spelling of each incorrect answer
    result = []
    for score in scores:
        if score.answer is None:
            result.append(-1)
            continue
        spelling = None if score.correct else score.answer
        if spelling not in numbers:
            new = 1 + max(numbers.values(), default=-1)
            if spelling is None:
                numbers[spelling] = new
            else:
                numbers[spelling] = _first_equal(spelling, incorrect, same, new)
                incorrect.setdefault(numbers[spelling], spelling)
        result.append(numbers[spelling])
    return result


def _first_equal(answer: str, others: dict[int, str], same: SameAnswers, otherwise: int) -> int:
    """The number of the first of the other answers that equals this one, or `otherwise` where none does."""
    verdicts = same([(other, answer) for other in others.values()]) if others else []
    return next((number for number, verdict in zip(others, verdicts, strict=True) if verdict), otherwise)
