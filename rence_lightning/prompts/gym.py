"""Problems of reasoning-gym: about a hundred generators of tasks whose answers a program grades."""

import importlib.util
import json
import os
import random
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from rence_lightning.errors import UserError
from rence_lightning.problem import Problem
from rence_lightning.prompts.problems import ProblemSource
from rence_lightning.text import RESPONSE_FORMATS, did_you_mean, install_extra

SPLITS = ("train", "test")

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
    one split, whatever the seed, the size and the settings, so that no problem of `test` is trained on.

    Args:
        tasks: Name of a generator, such as `chain_sum`, or generators by name with their weights and settings.
        split: Name of the split: `train`, or `test` for held-out problems (a fifth of all questions).
        size: Number of problems.
        seed: Seed of the generators.
        response_format: Form of the final answer, which `GymReward` reads: `boxed` for `\boxed{...}`, or `tags` for
            `<answer>...</answer>`.
        instruction: Sentence after each question that asks for the form. None: a sentence that fits the form; empty:
            none.

    Raises:
        UserError: An argument is out of range or unknown; what only the generators know is checked by `load`.
    """

    def __init__(
        self,
        tasks: str | dict[str, GymTask],
        split: str = "train",
        size: int = 1000,
        seed: int = 0,
        response_format: str = "boxed",
        instruction: str | None = None,
    ) -> None:
        self.tasks = {tasks: GymTask()} if isinstance(tasks, str) else dict(tasks)
        if not self.tasks:
            raise UserError("GymProblems: tasks is empty; name at least one generator, such as chain_sum")
        for name, task in self.tasks.items():
            if not isinstance(task, GymTask):
                raise UserError(f"GymProblems: {name} is {task!r:.60}; give a GymTask(weight, settings)")
            if not 0 < task.weight < float("inf"):
                raise UserError(f"GymProblems: {name}: weight is {task.weight}, it must be positive and finite")
        if split not in SPLITS:
            raise UserError(f"GymProblems: no split {split!r}; choose one of: {', '.join(SPLITS)}")
        if size < 1:
            raise UserError(f"GymProblems: size is {size}, it must be at least 1")
        if response_format not in RESPONSE_FORMATS:
            hint = did_you_mean(response_format, RESPONSE_FORMATS)
            known = ", ".join(RESPONSE_FORMATS)
            raise UserError(f"GymProblems: no response_format {response_format!r}{hint}; choose one of: {known}")
        self.split, self.size, self.seed = split, size, seed
        self.response_format = response_format
        self.instruction = RESPONSE_FORMATS[response_format].instruction if instruction is None else instruction

    def load(self) -> list[Problem]:
        """Generates the problems in a process of its own, which takes three seconds and more.

        Raises:
            UserError: reasoning-gym is not installed; a generator or a setting does not exist; a generator refuses its
                settings, fails, or has fewer different questions than are wanted.
        """
        counts = quotas({name: task.weight for name, task in self.tasks.items()}, self.size)
        rows = _generate(
            {
                "split": self.split,
                "seed": self.seed,
                "tasks": {
                    name: {"settings": task.settings, "size": counts[name]}
                    for name, task in self.tasks.items()
                    if counts[name]
                },
            }
        )
        problems = [self._problem(name, row) for name, each in rows.items() for row in each]
        random.Random(self.seed).shuffle(problems)
        return problems

    def _problem(self, task: str, row: Mapping[str, Any]) -> Problem:
        question = str(row["question"])
        text = f"{question}\n{self.instruction}" if self.instruction else question
        return Problem(
            id=f"{task}/{sha256(question.encode()).hexdigest()[:16]}",
            problem=text,
            answer=ANY_ANSWER if row["answer"] in (None, "") else str(row["answer"]),
            source=task,
            fields={
                "task": task,
                "settings": self.tasks[task].settings,
                "entry": row["entry"],
                "response_format": self.response_format,
            },
        )


def quotas(weights: Mapping[str, float], size: int) -> dict[str, int]:
    """Divides `size` in proportion to the weights: rounded down, and the rest to the largest remainders."""
    total = sum(weights.values())
    exact = {name: size * weight / total for name, weight in weights.items()}
    counts = {name: int(share) for name, share in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: size - sum(counts.values())]:
        counts[name] += 1
    return counts


def _generate(request: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    if importlib.util.find_spec("reasoning_gym") is None:
        raise UserError(f"GymProblems: reasoning-gym is not installed; {install_extra('gym')}")
    package_root = str(Path(__file__).resolve().parents[2])
    paths = [str(Path(path).resolve()) for path in sys.path] + [package_root]
    environment = {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
    try:
        asked = json.dumps(request)
    except TypeError as error:
        raise UserError(f"GymProblems: the settings hold what JSON does not ({error}); give plain values") from error
    child = subprocess.run(
        [sys.executable, "-P", "-m", "rence_lightning.prompts.gym_generation"],
        input=asked,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, **environment},
    )
    if child.returncode:
        lines = child.stderr.strip().splitlines() or ["it printed no error"]
        raise UserError(f"GymProblems: reasoning-gym failed to generate {', '.join(request['tasks'])}: {lines[-1]}")
    reply = json.loads(child.stdout)
    if "error" in reply:
        raise UserError(reply["error"])
    rows: dict[str, list[dict[str, Any]]] = reply["rows"]
    return rows
