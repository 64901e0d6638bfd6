"""Responses and graded groups from the few values that a test is about."""

from collections.abc import Sequence

from rence_lightning.parts import Problem
from rence_lightning.rewards import Response, Score
from rence_lightning.sampling import GradedGroup


def responses_to(gold: Sequence[str] | str, texts: Sequence[str]) -> list[Response]:
    """Responses with these texts, to problems with these answers."""
    answers = [gold] * len(texts) if isinstance(gold, str) else gold
    return [Response(Problem("p", "?", answer), text) for answer, text in zip(answers, texts, strict=True)]


def graded(rewards: Sequence[float], correct: Sequence[bool], truncated: Sequence[bool] = ()) -> GradedGroup:
    """A group with these rewards and verdicts."""
    problem = Problem("p", "?", "1")
    cut = truncated or [False] * len(rewards)
    responses = [Response(problem, "", (1,), "length" if each else "stop") for each in cut]
    return GradedGroup(responses, [Score(*each) for each in zip(rewards, correct, strict=True)])
