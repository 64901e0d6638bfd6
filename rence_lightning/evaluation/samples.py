"""What an evaluation sampled: a folder with a JSON lines file a benchmark, written as it comes, read back to go on.

evaluations/iteration-0000/
  evaluation.json       what was evaluated and how
  math500.jsonl         a line a problem, in the benchmark's order, once all are there
  aime2024.part-0.jsonl while it is being sampled: what rank 0 has done
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rence_lightning.errors import UserError

DESCRIPTION = "evaluation.json"


@dataclass(frozen=True)
class Sample:
    """A response of an evaluation.

    Attributes:
        response: Its text.
        extracted: The final answer that was judged, or None.
        correct: The verdict.
        reward: Of the configured reward.
        vote: Equal numbers are equal answers, counted from 0 within the problem; -1 where there is none.
        tokens: Its length.
        finish_reason: `stop` or `length`.
    """

    response: str
    extracted: str | None
    correct: bool
    reward: float
    vote: int
    tokens: int
    finish_reason: str


@dataclass(frozen=True)
class EvaluatedProblem:
    """A problem of a benchmark with its sampled responses.

    Attributes:
        id: Of the problem.
        problem: Its text.
        prompt: What the policy read, template and special tokens included.
        answer: The reference.
        samples: The k responses.
    """

    id: str
    problem: str
    prompt: str
    answer: str
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Description:
    """What was evaluated, and how; two evaluations of equal `identity` draw the same samples.

    Attributes:
        policy: What it is called.
        iteration: Of training, 0 before it.
        weights: A digest of the policy's parameters.
        engine: The class that sampled.
        settings: Repeats, sampling, seed and template.
        benchmarks: Digests of the problems, by name.
    """

    policy: str
    iteration: int
    weights: str
    engine: str
    settings: dict[str, Any]
    benchmarks: dict[str, str]

    @property
    def identity(self) -> dict[str, Any]:
        """All that the samples depend on."""
        return {"weights": self.weights, "engine": self.engine, **self.settings, **self.benchmarks}


class SampleFolder:
    """The folder of one evaluation.

    Args:
        path: Of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, description: Description) -> bool:
        """Begins the evaluation, or goes on with it where the folder holds the beginning of the same one; what it holds
        of another is removed.

        Returns:
            Whether samples of another evaluation were removed.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        former = self.description() if (self.path / DESCRIPTION).exists() else None
        stale = former is not None and former.identity != description.identity
        if stale or former is None:
            for file in self.path.glob("*.jsonl"):
                file.unlink()
        text = json.dumps(asdict(description), indent=1) + "\n"
        draft = self.path / f".tmp-{DESCRIPTION}"
        draft.write_text(text)
        draft.replace(self.path / DESCRIPTION)
        return stale

    def description(self) -> Description:
        """What is evaluated here.

        Raises:
            UserError: There is no such file, or it is not ours.
        """
        file = self.path / DESCRIPTION
        try:
            return Description(**json.loads(file.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{file}: not the description of an evaluation ({error})") from error

    @property
    def finished(self) -> list[str]:
        """Names of the benchmarks that are complete."""
        return sorted(file.stem for file in self.path.glob("*.jsonl") if ".part-" not in file.name)

    def read(self, name: str) -> dict[str, EvaluatedProblem]:
        """The problems of a benchmark that are done, by id. A last line that a kill cut off is not one."""
        files = [self._whole(name), *sorted(self.path.glob(f"{name}.part-*.jsonl"))]
        return {problem.id: problem for file in files if file.exists() for problem in _read(file)}

    def append(self, name: str, rank: int, problem: EvaluatedProblem) -> None:
        """Adds a problem to this rank's part; it reaches the disk before this returns."""
        file = self.path / f"{name}.part-{rank}.jsonl"
        with file.open("ab+", buffering=0) as part:
            if part.tell() and _last_byte(file) != b"\n":
                part.write(b"\n")  # after a line that a kill cut off, which reading passes over
            part.write(_line(problem).encode())
            os.fsync(part.fileno())

    def finish(self, name: str, problems: Sequence[EvaluatedProblem]) -> None:
        """Puts the parts together: the benchmark is complete."""
        draft = self.path / f".tmp-{name}"
        draft.write_text("".join(map(_line, problems)))
        draft.replace(self._whole(name))
        for part in self.path.glob(f"{name}.part-*.jsonl"):
            part.unlink()

    def _whole(self, name: str) -> Path:
        return self.path / f"{name}.jsonl"


def _line(problem: EvaluatedProblem) -> str:
    return json.dumps(asdict(problem)) + "\n"  # ASCII: model output may hold lone surrogates, which UTF-8 cannot


def _last_byte(file: Path) -> bytes:
    with file.open("rb") as content:
        content.seek(-1, os.SEEK_END)
        return content.read(1)


def _read(file: Path) -> Iterable[EvaluatedProblem]:
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        try:
            row = json.loads(line)
            samples = tuple(Sample(**sample) for sample in row.pop("samples"))
            yield EvaluatedProblem(**row, samples=samples)
        except (ValueError, TypeError, KeyError) as error:
            if ".part-" not in file.name:
                raise UserError(f"{file}, line {number}: not a problem of an evaluation; remove the file") from error


def find_samples(path: Path) -> SampleFolder:
    """The samples that a path means: an evaluation's own folder, or a run directory's last evaluation.

    Raises:
        UserError: There are none.
    """
    if (path / DESCRIPTION).exists():
        return SampleFolder(path)
    folders = sorted(file.parent for file in path.glob(f"evaluations/*/{DESCRIPTION}"))
    if not folders:
        raise UserError(f"{path}: no evaluation in it; give a run directory, or a folder in its evaluations/")
    return SampleFolder(folders[-1])
