"""The golden run: ten iterations of the demo, of which every figure is recorded."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from arithmetic_run import TIMING
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import rence_lightning
from rence_lightning.callbacks import Callback
from rence_lightning.evaluation import Evaluation
from rence_lightning.policy import weights_digest
from rence_lightning.sampling.batch import IterationBatch
from rence_lightning.sampling.groups import Group
from rence_lightning.training import PolicyModule, Trainer

CONFIG = Path(__file__).parents[2] / "conf" / "arithmetic.yaml"
ITERATIONS = 10

Record = dict[str, Any]
"""The figures of a run: `evaluations` and `iterations`, lists in the order of the run, and `memory`, the peak of the
memory that torch allocates during the first update, in bytes."""


def record_run(run_dir: Path, iterations: int = ITERATIONS, evaluate: bool = True, threads: int = 1) -> Record:
    """Runs the demo with seed 0, and returns its figures.

    Args:
        run_dir: Directory of the run.
        iterations: Number of iterations. The figures of an iteration do not depend on how many follow.
        evaluate: Whether to evaluate before the first iteration and after the last, on which training does not depend.
        threads: Number of threads.
    """
    recorder = Recorder()
    rence_lightning.fit(
        config=CONFIG,
        seed=0,
        max_iterations=iterations,
        run_dir=run_dir,
        callbacks=[recorder],
        trainer={"cpu_threads": threads},
        evaluation={"every": 10 if evaluate else 0},
        checkpoint={"every": 10 if evaluate else 0},
    )
    return recorder.record


class Recorder(Callback):
    """Records a run.

    Attributes:
        record: Figures of the run so far.
    """

    def __init__(self) -> None:
        self.record: Record = {"evaluations": [], "iterations": []}

    def on_train_batch_start(self, trainer: Trainer, module: PolicyModule, batch: list[Group], batch_idx: int) -> None:
        if "memory" not in self.record:
            self._profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
            self._profile.start()

    def on_train_batch_end(
        self, trainer: Trainer, module: PolicyModule, outputs: dict[str, Any], batch: list[Group], batch_idx: int
    ) -> None:
        if "memory" not in self.record:
            self._profile.stop()
            self.record["memory"] = _peak(self._profile)

    def on_train_start(self, trainer: Trainer, module: PolicyModule) -> None:
        self._start = _weights(module)

    def on_rollouts_end(self, trainer: Trainer, module: PolicyModule, batch: IterationBatch) -> None:
        self._batch = batch
        self._groups = [_line(group) for group in batch.sampled]

    def on_train_epoch_end(self, trainer: Trainer, module: PolicyModule) -> None:
        weights = _weights(module)
        self.record["iterations"].append(
            {
                "iteration": trainer.iteration,
                "groups": self._groups,
                "rollouts": _without_timing(self._batch.metrics()),
                "updates": self._batch.updates_done,
                "weights": {
                    "norm": float(weights.norm()),
                    "movement": float((weights - self._start).norm()),
                    "digest": weights_digest(module.policy),
                },
            }
        )

    def on_evaluation_end(self, trainer: Trainer, module: PolicyModule, evaluation: Evaluation) -> None:
        results = {name: _without_timing(figures) for name, figures in evaluation.results.items()}
        self.record["evaluations"].append({"iteration": evaluation.iteration, **results})


def _line(group: Group) -> str:
    """A sampled group: its prompt, its outcome, how many responses are correct, and a digest of the responses."""
    responses = _digest([rollout.token_ids.tolist() for rollout in group.rollouts], size=4)
    return f"{group.prompt.index} {group.outcome} {sum(group.correct)}/{group.size} {responses}"


def _peak(recorded: profile) -> int:
    """The largest sum of the allocations and releases that a profile has recorded, in bytes."""
    now = peak = 0
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]  # type: ignore[union-attr]
    for event in sorted(events, key=lambda each: each.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def _digest(values: Any, size: int = 16) -> str:
    return hashlib.blake2b(repr(values).encode(), digest_size=size).hexdigest()


def _weights(module: PolicyModule) -> Tensor:
    """All weights of the policy, in float64, so that the sum of a norm is not rounded."""
    return torch.cat([parameter.detach().double().flatten() for parameter in module.policy.parameters()])


def _without_timing(figures: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if name not in TIMING}
