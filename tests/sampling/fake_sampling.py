"""Iterations without a model: engines that finish groups in any order, and what a batch must be, written down anew."""

import random
import threading
import time
from array import array
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch.distributed as dist
from arithmetic_run import TIMING

from rence_lightning import distributed
from rence_lightning.prompts import Cleaning, Problem, ProblemSource, PromptTemplate
from rence_lightning.rewards import Response, Reward, Score
from rence_lightning.rollouts import FinishedGroup, Request, Rollout, SampledPolicy, Sampling, SamplingStep
from rence_lightning.sampling import IterationBatch, PositiveRatioFilter
from rence_lightning.sampling.datamodule import RolloutDataModule
from rence_lightning.sampling.sampler import seed_of

K = 4
SAMPLING = Sampling(max_response_tokens=100)

Responses = Callable[[int], tuple[int, list[bool]]]
"""From the seed of a request to the length of its responses and whether each is correct."""


def unrelated(seed: int) -> tuple[int, list[bool]]:
    """Groups of all outcomes, with lengths that tell nothing."""
    chance = random.Random(seed)
    return chance.randint(1, 30), [chance.random() < 0.45 for _ in range(K)]


class Numbers(ProblemSource):
    """Problems that are numbers."""

    def __init__(self, count: int) -> None:
        self.count = count

    def load(self) -> list[Problem]:
        return [Problem(f"p{number}", str(number), "1") for number in range(self.count)]


class LastToken(Reward):
    """Takes a response as correct if its last token is 1."""

    def score(self, responses: Sequence[Response]) -> list[Score]:
        return [Score(float(each.text == "1"), each.text == "1", each.text) for each in responses]


class Tokenizer:
    """Encodes a problem as its number, and decodes a response as its last token."""

    eos_token_id = 0
    chat_template = None
    added_tokens_decoder: ClassVar[dict[int, Any]] = {}

    def __call__(self, texts: Sequence[str], **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[1000 + int(text)] for text in texts]}

    def __len__(self) -> int:
        return 2**31

    def convert_ids_to_tokens(self, number: int) -> str:
        return str(number)

    def decode(self, row: Sequence[int], **_: Any) -> str:
        return str(row[-1])


CONFIG = SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=100))
MODEL = SimpleNamespace(config=CONFIG, generation_config=None)
POLICY: Any = SimpleNamespace(tokenizer=Tokenizer(), context_length=None, model=MODEL)


@dataclass
class FakeEngine:
    """Samples a token of each response at a time, or finishes groups at random."""

    respond: Responses = unrelated
    room: int = 4  # groups sampled at a time
    honours: bool = True  # ends the groups that are cancelled
    order: int | None = None  # seed of a random order of finishing; None: after as much time as a group has tokens
    pause: float = 0.0  # seconds of a step; without one, sampling takes no time, and grading is always late
    seen: list[int] = field(default_factory=list)  # seeds of all requests taken
    closed: int = 0  # calls that were ended

    def sync(self, policy: SampledPolicy) -> None: ...

    def release(self) -> None: ...

    def generate(self, requests: Iterable[Request], cancelled: Container[int] = ()) -> Iterator[SamplingStep]:
        source, taken = iter(requests), 0
        running: dict[int, Request] = {}
        left: dict[int, int] = {}
        chance = random.Random(self.order)
        try:
            while True:
                for index in [index for index in running if self.honours and index in cancelled]:
                    del running[index]
                while len(running) < self.room and (request := next(source, None)) is not None:
                    running[taken], left[taken] = request, self.respond(request.seed)[0]
                    taken += 1
                    self.seen.append(request.seed)
                if not running:
                    return
                time.sleep(self.pause)
                tokens = min(left[index] for index in running)  # up to the next group that finishes
                for index in running:
                    left[index] -= tokens
                done = [index for index in running if left[index] == 0]
                if self.order is not None:
                    left = dict.fromkeys(running, 1)
                    done = chance.sample(sorted(running), chance.randint(0, len(running)))
                groups = [FinishedGroup(index, self._rollouts(running.pop(index))) for index in done]
                yield SamplingStep(K * len(groups), K * tokens * (len(running) + len(done)), groups)
        finally:
            self.closed += 1

    def _rollouts(self, request: Request) -> list[Rollout]:
        length, correct = self.respond(request.seed)
        return [
            Rollout(array("i", [7] * (length - 1) + [int(right)]), array("f", [-1.0] * length), "stop")
            for right in correct
        ]


def make_data(engine: FakeEngine, prompts: int = 60, **settings: Any) -> RolloutDataModule:
    settings = {
        "filter": PositiveRatioFilter(t_easy=0.5, t_master=0.8),
        "cleaning": Cleaning(duplicates="keep", conflicts="keep"),
        "template": PromptTemplate("{problem}", chat=False),
        "reward": LastToken(),
        "sampling": SAMPLING,
        "group_size": K,
        "prompts_per_iteration": 5,
        "prompts_per_update": 5,
        "max_draws_per_iteration": 50,
        **settings,
    }
    data = RolloutDataModule(problems=[Numbers(prompts)], engine=engine, **settings)
    data.connect(POLICY)
    data.setup("fit")
    return data


def iterations(data: RolloutDataModule, count: int) -> list[IterationBatch]:
    batches = iter(data.train_dataloader())
    return [next(batches) for _ in range(count)]


@dataclass
class Expected:
    """What an iteration must have, by the algorithm alone."""

    kept: list[str]
    counted: list[str]
    mastered: set[str]


def brute_force(respond: Responses, wanted: int, count: int, prompts: int, seed: int = 0) -> list[Expected]:
    """Iterations in one process, one prompt after the other until enough groups are kept, within one epoch.

    Nothing is drawn in advance or cancelled, so that a prompt that is not needed is simply the next one.
    """
    pool = make_data(FakeEngine(), prompts, seed=seed).pool
    pool.start_iteration()
    order = iter(pool.draw(prompts))
    result = []
    for iteration in range(1, count + 1):
        expected = Expected([], [], set())
        while len(expected.kept) < wanted:
            name = f"p{next(order)}"
            _, correct = respond(seed_of(f"seed {seed}, iteration {iteration}", name))
            rho = sum(correct) / K
            expected.counted.append(name)
            if rho > 0.8:
                expected.mastered.add(name)
            elif 0 < rho <= 0.5:
                expected.kept.append(name)
        result.append(expected)
    return result


def figures(batch: IterationBatch) -> dict[str, float]:
    """The figures that must be equal in equal runs."""
    return {name: value for name, value in batch.metrics().items() if name not in TIMING}


def names(groups: Iterable[Any]) -> list[str]:
    return [group.prompt.problem.id for group in groups]


# ---- ranks as threads -----------------------------------------------------------------------------------------------


class Ranks:
    """Runs work on several ranks, each a thread of this process, with an exchange like that of torch."""

    def __init__(self, world: int) -> None:
        self.world = world
        self._rank = threading.local()
        self._barrier = threading.Barrier(world, timeout=60)
        self._slots: list[Any] = [None] * world

    def gather(self, envelopes: list[Any], value: Any, group: Any = None) -> None:
        self._slots[self._rank.number] = value
        self._barrier.wait()
        envelopes[:] = self._slots
        self._barrier.wait()

    def run(self, work: Callable[[int], Any]) -> list[Any]:
        def on_rank(rank: int) -> Any:
            self._rank.number = rank
            try:
                return work(rank)
            except BaseException:
                self._barrier.abort()
                raise

        with ThreadPoolExecutor(self.world) as threads:
            futures = [threads.submit(on_rank, rank) for rank in range(self.world)]
        errors = [error for future in futures if (error := future.exception()) is not None]
        for error in sorted(errors, key=lambda each: isinstance(each, threading.BrokenBarrierError)):
            raise error
        return [future.result() for future in futures]

    @contextmanager
    def connected(self, board: "distributed.Board | None") -> Iterator[None]:
        """Makes this process look like the ranks of a run; the grading threads ask for nothing of this."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dist, "is_initialized", lambda: True)
            patch.setattr(dist, "get_rank", lambda: self._rank.number)
            patch.setattr(dist, "get_world_size", lambda: self.world)
            patch.setattr(dist, "all_gather_object", self.gather)
            patch.setattr(distributed, "_group", object())
            patch.setattr(distributed, "_board", board)
            yield
