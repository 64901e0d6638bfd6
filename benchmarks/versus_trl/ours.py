"""The work by this project."""

import tempfile
import time
from collections.abc import Container, Iterable, Iterator
from typing import Literal

from benchmarks.versus_trl.cases import Case
from benchmarks.versus_trl.timing import IterationTime, Stopwatch
from rence_lightning.callbacks import Callback, OldPolicySnapshot
from rence_lightning.rollouts import Request, SamplingStep, TransformersEngine
from rence_lightning.sampling import IterationBatch
from rence_lightning.training import PolicyModule, Trainer

Source = Literal["engine", "recompute"]
"""Source of log pi_old, as in `old_policy.source`."""


class TimedEngine(TransformersEngine):
    """The engine, which notes how long it samples and when it ends."""

    def __init__(self, watch: Stopwatch, max_num_seqs: int) -> None:
        super().__init__(max_num_seqs)
        self._watch = watch
        self.ended = 0.0

    def generate(self, requests: Iterable[Request], cancelled: Container[int] = ()) -> Iterator[SamplingStep]:
        try:
            with self._watch.measures("generate"):
                yield from super().generate(requests, cancelled)
        finally:
            self.ended = time.perf_counter()


class Clock(OldPolicySnapshot):
    """The old-policy snapshot, which notes how long it takes, and where iterations begin."""

    def __init__(self, watch: Stopwatch, engine: TimedEngine, source: Source, case: Case) -> None:
        super().__init__(source)
        self._watch, self._engine, self._case = watch, engine, case

    def on_train_epoch_start(self, trainer: Trainer, module: PolicyModule) -> None:
        self._case.set_end(module.policy)  # the data added the token that ends a turn of the chat
        self._watch.start_iteration()

    def on_updates_start(self, trainer: Trainer, module: PolicyModule, batch: IterationBatch) -> None:
        self._watch.add("reward", time.perf_counter() - self._engine.ended)
        tokens = sum(sum(group.lengths) for group in batch.groups)
        self._watch.sampled((group.prompt.token_ids for group in batch.groups), tokens)
        with self._watch.measures("log-probs"):
            super().on_updates_start(trainer, module, batch)

    def on_train_end(self, trainer: Trainer, module: PolicyModule) -> None:
        self._watch.end()


def run(case: Case, iterations: int, source: Source = "engine") -> list[IterationTime]:
    """The times of so many iterations, after one that warms up."""
    watch = Stopwatch()
    engine = TimedEngine(watch, max_num_seqs=case.prompts * case.group_size)
    callbacks: list[Callback] = [Clock(watch, engine, source, case)]
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(iterations + 1, f"{folder}/run", "cpu", devices=1, callbacks=list(callbacks))
        trainer.fit(case.module(), case.data(engine))
    return watch.times[1:]
