"""A game of several turns, of which only the last decides."""

import re

from rence_lightning.environments.environment import Environment
from rence_lightning.parts import Problem


class Guessing(Environment):
    """Answers a guess, the last number of a turn, with `higher` or `lower`; the problem's answer ends the game."""

    blocks = False

    def start(self, problem: Problem, seed: int) -> None:
        self._secret = int(problem.answer)

    def reply(self, turn: str) -> str | None:
        numbers = re.findall(r"-?[0-9]{1,18}", turn)
        if not numbers:
            return "Guess a number."
        guess = int(numbers[-1])
        return None if guess == self._secret else "higher" if guess < self._secret else "lower"
