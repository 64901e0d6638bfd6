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
    answers: list[tuple[str, bool]] = []
    numbers = []
    for score in scores:
        if score.answer is None:
            numbers.append(-1)
            continue
        equal = [number for number, (_, correct) in enumerate(answers) if correct == score.correct]
        if not score.correct:
            equal = _equal(score.answer, {number: answers[number][0] for number in equal}, same)
        if not equal:
            answers.append((score.answer, score.correct))
        numbers.append(equal[0] if equal else len(answers) - 1)
    return numbers


def _equal(answer: str, others: dict[int, str], same: SameAnswers) -> list[int]:
    """The numbers of the other answers that equal this one."""
    verdicts = same([(other, answer) for other in others.values()]) if others else []
    return [
        number for (number, other), verdict in zip(others.items(), verdicts, strict=True) if verdict or other == answer
    ]
