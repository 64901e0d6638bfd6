"""The reward of problems whose answer is an integer, which a response states in any words: its last number counts."""

import re
from collections import deque
from collections.abc import Sequence

from rence_lightning.errors import UserError
from rence_lightning.rewards.reward import Response, Reward, Score

# A minus sign directly after a digit or a word is an operator or a hyphen: `9-4` holds 9 and 4. The comma separates
# thousands only in front of three digits that no fourth one follows.
_NUMBER = re.compile(r"((?<![\w.])-)?([0-9]+(?:,[0-9]{3}(?![0-9]))*)(?:\.([0-9]+))?", re.ASCII)


def last_number(text: str) -> str | None:
    """The last number of a text in plain digits, or None where it has none.

    Separators of thousands, leading zeros and a fraction of zeros are left out: `1,024`, `01024` and `1024.0` are all
    `1024`. In `9-4` the last number is 4, in `9 is more than -4` it is -4.
    """
    last = deque(_NUMBER.finditer(text), maxlen=1)
    if not last:
        return None
    sign, whole, fraction = last[0].groups(default="")
    digits, fraction = whole.replace(",", "").lstrip("0") or "0", fraction.rstrip("0")
    value = f"{digits}.{fraction}" if fraction else digits
    return value if value == "0" else sign + value


class LastNumberReward(Reward):
    """Compares the last number of a response with the reference answer.

    It asks for no format, so that a language model which was never taught one solves some problems from the start.

    Args:
        correct: Reward of a response whose last number is right.
        wrong: Reward of a response whose last number is wrong.
        none: Reward of a response without a number.

    Raises:
        UserError: If a right number would not earn the most, or a reward is not in [0, 1].
    """

    def __init__(self, correct: float = 1.0, wrong: float = 0.1, none: float = 0.0) -> None:
        if not 0 <= min(wrong, none) <= max(wrong, none) < correct <= 1:
            raise UserError(
                f"reward: correct={correct} must be greater than wrong={wrong} and none={none}, all from 0 to 1"
            )
        self.correct, self.wrong, self.none = correct, wrong, none

    def score(self, responses: Sequence[Response]) -> list[Score]:
        return [self._score(last_number(response.text), response.problem.answer) for response in responses]

    def _score(self, answer: str | None, gold: str) -> Score:
        if answer is None:
            return Score(self.none, False)
        right = answer == last_number(gold)
        return Score(self.correct if right else self.wrong, right, answer)
