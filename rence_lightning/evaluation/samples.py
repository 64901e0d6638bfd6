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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rence_lightning.errors import UserError

if TYPE_CHECKING:
    from rence_lightning.prompts import Problem
    from rence_lightning.rewards import Score
    from rence_lightning.rollouts import Rollout  # not imported at run time: it loads torch, and `compare` needs none

DESCRIPTION = "evaluation.json"

SameAnswers = Callable[[Sequence[tuple[str, str]]], list[bool]]
"""Whether the two answers of each pair are equal, such as `Reward.same`."""


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
    """The record of a problem with its k responses, whose answers `same` compares for the votes."""
    samples = tuple(
        Sample(text, score.answer, score.correct, score.reward, vote, rollout.chosen_tokens, rollout.finish_reason)
        for text, rollout, score, vote in zip(responses, rollouts, scores, votes(scores, same), strict=True)
    )
    return EvaluatedProblem(problem.id, problem.problem, prompt, problem.answer, samples)


def votes(scores: Sequence[Score], same: SameAnswers) -> list[int]:
    """Numbers the answers to a problem from 0 in the order in which they first occur, equal ones alike; -1 for none.

    Correct answers all equal the reference and therefore one another, and so do answers of the same spelling; `same`
    compares the other incorrect ones.
    """
    numbers: dict[str | None, int] = {}  # by spelling; all correct answers under None
    incorrect: dict[int, str] = {}  # the first spelling of each incorrect answer
    result = []
    for score in scores:
        spelling = None if score.correct else score.answer
        if score.answer is not None and spelling not in numbers:
            number = 1 + max(numbers.values(), default=-1)
            if spelling is not None:
                verdicts = same([(other, spelling) for other in incorrect.values()]) if incorrect else []
                number = next((n for n, verdict in zip(incorrect, verdicts, strict=True) if verdict), number)
                incorrect.setdefault(number, spelling)
            numbers[spelling] = number
        result.append(-1 if score.answer is None else numbers[spelling])
    return result


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


@dataclass(frozen=True)
class SampleFolder:
    """The folder of one evaluation."""

    path: Path

    def open(self, description: Description) -> bool:
        """Begins the evaluation, or continues it where the folder holds samples of the same one; returns whether
        samples of a different one were found and removed."""
        self.path.mkdir(parents=True, exist_ok=True)
        former = self.description() if (self.path / DESCRIPTION).exists() else None
        stale = former is not None and former.identity != description.identity
        if stale or former is None:
            for file in self.path.glob("*.jsonl"):
                file.unlink()
        draft = self.path / f".tmp-{DESCRIPTION}"
        draft.write_text(json.dumps(asdict(description), indent=1) + "\n")
        draft.replace(self.path / DESCRIPTION)
        return stale

    def description(self) -> Description:
        """What was evaluated, and how.

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
        files = [self.path / f"{name}.jsonl", *sorted(self.path.glob(f"{name}.part-*.jsonl"))]
        return {problem.id: problem for file in files for problem in _read(file)}

    def append(self, name: str, rank: int, problem: EvaluatedProblem) -> None:
        """Appends a problem to this rank's part; it is on the disk when this returns."""
        with self._part(name, rank).open("ab", buffering=0) as part:
            # The line break comes first, so that it ends an incomplete line, left by a killed process.
            part.write(f"\n{_line(problem)}".encode())
            os.fsync(part.fileno())

    def finish(self, name: str, ids: Sequence[str], ranks: int) -> None:
        """Joins the parts of all ranks to one file with all problems of the benchmark, in this order.

        Raises:
            UserError: A problem is in no part.
        """
        # By their names as well, because a list of the folder may be old on a network file system.
        done = self.read(name) | {each.id: each for rank in range(ranks) for each in _read(self._part(name, rank))}
        if missing := len(set(ids) - done.keys()):
            raise UserError(
                f"{self.path}: {missing} problems of {name} are in no process's samples; write the run to a file "
                "system that all processes share"
            )
        draft = self.path / f".tmp-{name}"
        draft.write_text("".join(f"{_line(done[each])}\n" for each in ids))
        draft.replace(self.path / f"{name}.jsonl")
        for part in self.path.glob(f"{name}.part-*.jsonl"):
            part.unlink()

    def _part(self, name: str, rank: int) -> Path:
        return self.path / f"{name}.part-{rank}.jsonl"


def _line(problem: EvaluatedProblem) -> str:
    return json.dumps(asdict(problem))  # ASCII: model output may hold lone surrogates, which UTF-8 cannot


def _read(file: Path) -> Iterable[EvaluatedProblem]:
    if not file.exists():
        return
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        if not line:
            continue
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
    """The samples that a path refers to: the folder of one evaluation, or the last evaluation of a run directory; where
    it holds none, the newest evaluation of its policy in a `...-validate...` directory beside it.

    Raises:
        UserError: There are no samples at this path.
    """
    if (path / DESCRIPTION).exists():
        return SampleFolder(path)
    if folders := [SampleFolder(file.parent) for file in path.glob(f"evaluations/*/{DESCRIPTION}")]:
        return max(folders, key=lambda folder: (iteration_of(folder.path) or 0, folder.path.name))
    beside = path.parent.glob(f"*-validate*/evaluations/*/{DESCRIPTION}")
    for file in sorted(beside, key=lambda file: file.stat().st_mtime, reverse=True):
        if Path(SampleFolder(file.parent).description().policy).resolve().is_relative_to(path.resolve()):
            return SampleFolder(file.parent)
    raise UserError(
        f"{path}: no evaluation in it, nor of its policy in {path.parent / '*-validate*'}; give a run directory or a "
        f"folder in its evaluations/, or evaluate it (validate --config {path / 'config.yaml'} --ckpt_path {path})"
    )
