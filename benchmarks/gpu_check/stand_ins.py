"""Parts of a run that need no model that can solve anything: fixed responses, verdicts and problems."""

from array import array
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Any

import torch

from rence_lightning.callbacks import Callback
from rence_lightning.prompts import Problem, ProblemSource
from rence_lightning.rewards import Response, Reward, Score
from rence_lightning.rollouts import FinishedGroup, Request, Rollout, SampledPolicy, SamplingStep
from rence_lightning.sampling import IterationBatch
from rence_lightning.training import PolicyModule, Trainer


class LongestResponses:
    """An engine that returns random tokens, up to the limit, instead of samples."""

    def sync(self, policy: SampledPolicy) -> None: ...

    def release(self) -> None: ...

    def generate(self, requests: Iterable[Request], cancelled: Container[int] = ()) -> Iterator[SamplingStep]:
        for index, request in enumerate(requests):
            length, count = request.sampling.max_response_tokens, request.group_size
            generator = torch.Generator().manual_seed(request.seed)
            tokens = torch.randint(3, 15, (count, length), generator=generator)
            rollouts = [Rollout(array("i", row.tolist()), array("f", [-2.5] * length), "length") for row in tokens]
            yield SamplingStep(count, count * length, [FinishedGroup(index, rollouts)])


class EveryOther(Reward):
    """A reward that takes every other response as correct."""

    def score(self, responses: Sequence[Response]) -> list[Score]:
        return [Score(1.0, True, None) if i % 2 else Score(0.1, False, None) for i in range(len(responses))]


class LongProblems(ProblemSource):
    """Problems of a given number of tokens, one character each.

    Args:
        tokens: Number of tokens of each problem.
        count: Number of problems.
    """

    def __init__(self, tokens: int, count: int) -> None:
        self.tokens, self.count = tokens, count

    def load(self) -> list[Problem]:
        return [Problem(str(i), "1" * (self.tokens - len(str(i))) + str(i), "1") for i in range(self.count)]


class PeakMemory(Callback):
    """Logs the peak of the GPU's memory in the updates of each iteration, in bytes, as `memory/peak`."""

    def on_updates_start(self, trainer: Trainer, module: PolicyModule, batch: IterationBatch) -> None:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def on_train_batch_end(
        self, trainer: Trainer, module: PolicyModule, outputs: dict[str, Any], batch: Any, batch_idx: int
    ) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # the time of the update ends here

    def on_train_epoch_end(self, trainer: Trainer, module: PolicyModule) -> None:
        if torch.cuda.is_available():
            trainer.log_metrics({"memory/peak": float(torch.cuda.max_memory_allocated())}, trainer.iteration)
