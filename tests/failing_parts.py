"""Parts that fail on one rank, in one place, for use by `class_path` in the tests of failures."""

import os
import signal
import threading
import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from rence_lightning.callbacks import Callback
from rence_lightning.distributed import rank_and_world
from rence_lightning.errors import UserError
from rence_lightning.objectives import MultiLabelNCE, ResponseTensors
from rence_lightning.rewards import MathReward, Response, Score
from rence_lightning.rollouts import Request, SampledPolicy, SamplingStep, TransformersEngine
from rence_lightning.sampling import FilterDecision, GradedGroup, IterationBatch, PositiveRatioFilter
from rence_lightning.training import PolicyModule, Trainer


class UnknownError(Exception):
    """An error that this project does not know."""


def fail(kind: str) -> None:
    if "FAILED_AT" in os.environ:
        file = Path(os.environ["FAILED_AT"])
        draft = file.with_name(f"draft-{threading.get_ident()}")  # several threads grade
        draft.write_text(str(time.time()))
        draft.replace(file)
    if kind.startswith("SIG"):
        os.kill(os.getpid(), signal.Signals[kind])
        return  # a process that was stopped and is continued
    errors: dict[str, Callable[[], Exception]] = {
        "UserError": lambda: UserError("the cause"),
        "OutOfMemoryError": lambda: torch.OutOfMemoryError("the cause"),
        "AssertionError": lambda: AssertionError("the cause"),
        "UnknownError": lambda: UnknownError("the cause"),
    }
    raise errors[kind]()


class Failing(Callback):
    """Makes one rank fail in one place of an iteration, and may hide the failure from the other ranks.

    Args:
        kind: Name of the error, or of a signal.
        rank: Number of the failing rank.
        place: `build`, `sync`, `generate`, `reward`, `filter`, `update`, `save` or `callback`.
        iteration: Iteration in which the rank fails, unless the run has been started again.
        deaf: Whether the transport hides failures, as NCCL does.
    """

    active: "Failing | None" = None

    def __init__(self, kind: str, rank: int, place: str, iteration: int = 2, deaf: bool = True) -> None:
        self.kind, self.rank, self.place, self.iteration = kind, rank, place, iteration
        self.now = 0
        Failing.active = self
        if deaf:
            deafen()

    def at(self, place: str) -> None:
        again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
        now = self.now == self.iteration or place == "build"
        if place == self.place and rank_and_world()[0] == self.rank and now and not again:
            fail(self.kind)

    def on_train_epoch_start(self, trainer: Trainer, module: PolicyModule) -> None:
        self.now = trainer.current_epoch + 1

    def on_rollouts_end(self, trainer: Trainer, module: PolicyModule, batch: IterationBatch) -> None:
        self.at("callback")

    def state_dict(self) -> dict[str, Any]:
        self.at("save")
        return {}


def at(place: str) -> None:
    if Failing.active is not None:
        Failing.active.at(place)


def deafen() -> None:
    """Makes the transport behave like NCCL: a collective whose partner has ended waits instead of raising an error."""

    def wrap(collective: Callable[..., Any]) -> Callable[..., Any]:
        def deaf(*arguments: Any, **settings: Any) -> Any:
            try:
                return collective(*arguments, **settings)
            except RuntimeError as error:
                if "onnection" in str(error) or "peer" in str(error) or "gloo" in str(error).lower():
                    time.sleep(3600)
                raise

        return deaf

    for name in ("all_gather_object", "all_reduce", "all_gather_into_tensor", "reduce_scatter_tensor", "broadcast"):
        setattr(dist, name, wrap(getattr(dist, name)))
    torch.Tensor.backward = wrap(torch.Tensor.backward)  # type: ignore[method-assign]


class Engine(TransformersEngine):
    def sync(self, policy: SampledPolicy) -> None:
        if self._model is None:
            at("build")
        at("sync")
        super().sync(policy)

    def generate(self, requests: Iterable[Request], cancelled: Container[int] = ()) -> Iterator[SamplingStep]:
        at("generate")
        return super().generate(requests, cancelled)


class Reward(MathReward):
    def score(self, responses: Sequence[Response]) -> list[Score]:
        at("reward")
        return super().score(responses)


class Filter(PositiveRatioFilter):
    def judge(self, group: GradedGroup) -> FilterDecision:
        at("filter")
        return super().judge(group)


class Objective(MultiLabelNCE):
    """Fails in the forward pass of an update, while the other ranks wait in the strategy's collectives."""

    def contrast(self, scores: Tensor, responses: ResponseTensors) -> Tensor:
        at("update")
        return super().contrast(scores, responses)
