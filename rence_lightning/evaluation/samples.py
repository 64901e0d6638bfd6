"""The samples of an evaluation: a folder with one JSON Lines file for each benchmark.

evaluations/iteration-0000/
  evaluation.json       what was evaluated and how
  math500.jsonl         a finished benchmark: one line for each problem, in the benchmark's order
  aime2024.part-0.jsonl an unfinished benchmark: the problems that rank 0 has completed so far

Each problem is written as soon as it is graded, so that an interrupted evaluation can be continued.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rence_lightning.errors import UserError
from rence_lightning.evaluation.votes import SameAnswers, votes

if TYPE_CHECKING:
    from rence_lightning.prompts import Problem
    from rence_lightning.rewards import Score
    from rence_lightning.rollouts import Rollout  # not imported at run time: it loads torch, and `compare` needs none

DESCRIPTION = "evaluation.json"


@dataclass(frozen=True)
class Sample:
    """A response of an evaluation.

    Attributes:
        response: Text of the response.
        extracted: Final answer that was graded, None where the response gives none.
        correct: Whether the answer is correct.
        reward: Reward of the response.
        vote: Number of the answer, equal for equal answers to the problem; -1 where there is none.
        tokens: Length of the response in tokens.
        finish_reason: `stop`, or `length` for a truncated response.
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
        id: Identifier of the problem.
        problem: Text of the problem.
        prompt: Text that the policy was given, template and special tokens included.
        answer: Reference answer.
        samples: The k responses.
    """

    id: str
    problem: str
    prompt: str
    answer: str
    samples: tuple[Sample, ...]


def evaluated_problem(
    problem: Problem,
    prompt: str,
    responses: Sequence[str],
    rollouts: Sequence[Rollout],
    scores: Sequence[Score],
    same: SameAnswers,
) -> EvaluatedProblem:
    """The record of a problem with its k responses.

    Args:
        problem: The problem.
        prompt: Text that the policy was given, template and special tokens included.
        responses: Texts of the k responses.
        rollouts: Token ids and finish reasons of the responses.
        scores: Rewards and verdicts of the responses.
        same: Comparison of answers, for the votes.
    """
    samples = tuple(
        Sample(text, score.answer, score.correct, score.reward, vote, len(rollout.token_ids), rollout.finish_reason)
        for text, rollout, score, vote in zip(responses, rollouts, scores, votes(scores, same), strict=True)
    )
    return EvaluatedProblem(problem.id, problem.problem, prompt, problem.answer, samples)


@dataclass(frozen=True)
class Description:
    """What was evaluated, and how; two evaluations of equal `identity` draw the same samples.

    Attributes:
        policy: Name of the policy, or path of its checkpoint.
        iteration: Iterations of training that the policy has had.
        weights: Digest of the policy's parameters.
        engine: Class name of the rollout engine.
        settings: Repeats, sampling settings, seed, reward and template.
        benchmarks: Digest of each benchmark's problems, by name.
    """

    policy: str
    iteration: int
    weights: str
    engine: str
    settings: dict[str, Any]
    benchmarks: dict[str, str]

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that the samples depend on."""
        return {"weights": self.weights, "engine": self.engine, **self.settings, **self.benchmarks}


class SampleFolder:
    """The folder of one evaluation.

    Args:
        path: Path of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, description: Description) -> bool:
        """Begin the evaluation, or continue it where the folder holds samples of the same one; samples of a different
        evaluation are removed.

        Returns:
            Whether samples of a different evaluation were removed.
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
        """Read what was evaluated, and how.

        Raises:
            UserError: The folder has no description, or the file is not one.
        """
        file = self.path / DESCRIPTION
        try:
            return Description(**json.loads(file.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(
                f"{file}: not the description of an evaluation ({error}); give a run directory or a folder in its "
                "evaluations/"
            ) from error

    @property
    def finished(self) -> list[str]:
        """Names of the benchmarks of which every problem has been sampled."""
        return sorted(file.stem for file in self.path.glob("*.jsonl") if ".part-" not in file.name)

    def read(self, name: str) -> dict[str, EvaluatedProblem]:
        """The completed problems of a benchmark, by id; an incomplete last line, left by a kill, is skipped."""
        files = [self._whole(name), *sorted(self.path.glob(f"{name}.part-*.jsonl"))]
        return {problem.id: problem for file in files if file.exists() for problem in _read(file)}

    def append(self, name: str, rank: int, problem: EvaluatedProblem) -> None:
        """Append a problem to this rank's part; it is on the disk when this returns."""
        file = self.path / f"{name}.part-{rank}.jsonl"
        with file.open("ab+", buffering=0) as part:
            if part.tell() and _last_byte(file) != b"\n":
                part.write(b"\n")  # ends an incomplete line, left by a killed process, which reading skips
            part.write(_line(problem).encode())
            os.fsync(part.fileno())

    def finish(self, name: str, problems: Sequence[EvaluatedProblem]) -> None:
        """Replace the parts by one file with all problems of the benchmark."""
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


def iteration_of(path: Path) -> int | None:
    """The number in a name such as `iteration-0003` or `iteration-0003.jsonl`; None for any other name.

    Sort by it: as text, `iteration-10000` comes before `iteration-9999`.
    """
    match = re.fullmatch(r"iteration-(\d+)(\.\w+)?", path.name)
    return int(match[1]) if match else None


def find_samples(path: Path) -> SampleFolder:
    """The samples that a path refers to: the folder of one evaluation, or the last evaluation of a run directory.

    Raises:
        UserError: There are no samples at this path.
    """
    if (path / DESCRIPTION).exists():
        return SampleFolder(path)
    folders = [file.parent for file in path.glob(f"evaluations/*/{DESCRIPTION}")]
    if not folders:
        raise UserError(f"{path}: no evaluation in it; give a run directory, or a folder in its evaluations/")
    return SampleFolder(max(folders, key=lambda folder: (iteration_of(folder) or 0, folder.name)))
