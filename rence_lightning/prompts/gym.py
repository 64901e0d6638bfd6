"""Problems of reasoning-gym: about a hundred generators of tasks whose answers a program grades."""

import importlib.util
import json
import random
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from hashlib import sha256
from itertools import accumulate, pairwise
from typing import Any

from rence_lightning.errors import UserError, install_extra
from rence_lightning.parts import Problem, python_process
from rence_lightning.prompts.problems import ProblemSource

ANY_ANSWER = "(every answer that score_answer accepts)"
"""Reference answer of problems for which reasoning-gym gives none, because many are right."""


@dataclass(frozen=True)
class GymTask:
    """A generator in a mixture.

    Args:
        weight: Share of the problems that come from this generator, relative to the weights of the others.
        settings: Settings of the generator by name, as in its configuration class; others keep its defaults.
    """

    weight: float = 1.0
    settings: dict[str, Any] = field(default_factory=dict)


class GymProblems(ProblemSource):
    r"""Problems of one generator of reasoning-gym, or of a weighted mixture; they need the extra `gym`.

    The same arguments give the same problems everywhere. All questions of a source are different. A question belongs to
    one split, whatever the seed, the size and the settings, so that no problem of `test` is trained on. The field
    `entry` of a problem is reasoning-gym's entry as a Python literal, which `ast.literal_eval` reads.

    Args:
        tasks: Name of a generator, such as `chain_sum`, or generators by name with their weights and settings.
        split: Name of the split: `train`, or `test` for held-out problems (a fifth of all questions).
        size: Number of problems.
        seed: Seed of the generators.
        instruction: Sentence after each question, which asks for the form that `GymReward` reads. Empty: none.

    Raises:
        UserError: An argument is out of range or unknown; what only the generators know is checked by `load`.
    """

    def __init__(
        self,
        tasks: str | dict[str, GymTask],
        split: str = "train",
        size: int = 1000,
        seed: int = 0,
        instruction: str = r"Write the final answer in \boxed{}.",
    ) -> None:
        self.tasks = {tasks: GymTask()} if isinstance(tasks, str) else dict(tasks)
        if not self.tasks:
            raise UserError("GymProblems: tasks is empty; name at least one generator, such as chain_sum")
        for name, task in self.tasks.items():
            if not 0 < task.weight < float("inf"):
                raise UserError(f"GymProblems: {name}: weight is {task.weight}, it must be positive and finite")
        if size < 1:
            raise UserError(f"GymProblems: size is {size}, it must be at least 1")
        if split not in ("train", "test"):
            raise UserError(f"GymProblems: no split {split!r}; choose one of: train, test")
        self.split, self.size, self.seed, self.instruction = split, size, seed, instruction

    def load(self) -> list[Problem]:
        """Generates the problems in a process of its own, which takes three seconds and more.

        Raises:
            UserError: reasoning-gym is not installed, or a generator cannot do what is asked.
        """
        if importlib.util.find_spec("reasoning_gym") is None:
            raise UserError(f"GymProblems: reasoning-gym is not installed; {install_extra('gym')}")
        sizes = quotas({name: task.weight for name, task in self.tasks.items()}, self.size)
        asked = [(name, task.settings, self.split, self.seed, sizes[name]) for name, task in self.tasks.items()]
        command, environment = python_process("rence_lightning.prompts.gym_generation")
        child = subprocess.run(command, input=json.dumps(asked), capture_output=True, encoding="utf-8", env=environment)
        if child.returncode:
            lines = child.stderr.strip().splitlines() or [f"reasoning-gym ended with {child.returncode}"]
            raise UserError(f"GymProblems: {lines[-1]}")
        problems = [self._problem(*row) for row in json.loads(child.stdout)]
        random.Random(self.seed).shuffle(problems)
        return problems

    def _problem(self, task: str, question: str, answer: Any, entry: str) -> Problem:
        return Problem(
            id=f"{task}/{sha256(question.encode()).hexdigest()[:16]}",
            problem=f"{question}\n{self.instruction}" if self.instruction else question,
            answer=ANY_ANSWER if answer in (None, "") else str(answer),
            source=task,
            fields={"task": task, "settings": self.tasks[task].settings, "entry": entry},
        )


def quotas(weights: Mapping[str, float], size: int) -> dict[str, int]:
    """Divides `size` in proportion to the weights, each share rounded up or down."""
    sums = list(accumulate(map(Fraction, weights.values()), initial=Fraction(0)))
    edges = [int(size * part / sums[-1]) for part in sums]
    return {name: stop - start for name, (start, stop) in zip(weights, pairwise(edges), strict=True)}
