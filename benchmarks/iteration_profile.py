"""`python -m benchmarks.iteration_profile`: where the time of one iteration goes, by kind of operation."""

import tempfile
import time
from collections import Counter
from typing import Any

import torch
from jsonargparse import CLI
from torch.profiler import ProfilerActivity, profile

from benchmarks.versus_trl.cases import CASES, Case
from rence_lightning.callbacks import OldPolicySnapshot
from rence_lightning.errors import UserError
from rence_lightning.rollouts import TransformersEngine
from rence_lightning.sampling import IterationBatch
from rence_lightning.training import PolicyModule, Trainer

KINDS = {
    "matrix products with weights": ("aten::mm", "aten::addmm", "aten::addmm_", "aten::linear"),
    "attention": ("scaled_dot_product", "aten::bmm", "aten::baddbmm", "aten::_softmax", "aten::softmax"),
    "copies, gathers, fills": ("copy_", "cat", "index", "gather", "scatter", "fill_", "zero", "clone", "repeat", "pad"),
    "sampling and log-probabilities": ("searchsorted", "cumsum", "logsumexp", "amax", "exp", "log", "isin", "rand"),
    "optimizer": ("_fused_adamw_", "_foreach"),
}
"""Kinds of operations, by parts of their names; all others are elementwise, and nearly all in the model's layers."""


class ProfiledParts(OldPolicySnapshot):
    """Profiles the rollouts and the updates of the second iteration, each on its own."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = {}
        self.profiles: dict[str, profile] = {}

    def on_train_epoch_start(self, trainer: Trainer, module: PolicyModule) -> None:
        if trainer.current_epoch == 1:
            self._start("rollouts")

    def on_updates_start(self, trainer: Trainer, module: PolicyModule, batch: IterationBatch) -> None:
        if trainer.current_epoch == 1:
            self._stop("rollouts")
            self._start("updates")
        super().on_updates_start(trainer, module, batch)

    def on_train_epoch_end(self, trainer: Trainer, module: PolicyModule) -> None:
        if trainer.current_epoch == 2:
            self._stop("updates")

    def _start(self, part: str) -> None:
        self.profiles[part] = profile(activities=[ProfilerActivity.CPU]).__enter__()
        self.seconds[part] = time.perf_counter()

    def _stop(self, part: str) -> None:
        self.seconds[part] = time.perf_counter() - self.seconds[part]
        self.profiles[part].__exit__(None, None, None)


def iteration_profile(case: str = "demo-forced") -> None:
    """Profiles the second iteration of a run without filtering.

    The shares are of the time in operations on the threads that call them; profiling itself makes small operations
    slower, so that wall-clock times are longer than without it.

    Args:
        case: Name of the work, as in `benchmarks.versus_trl`.
    """
    chosen = next((each for each in CASES if each.name == case), None)
    if chosen is None:
        raise UserError(f"--case: no case {case}; choose of {', '.join(each.name for each in CASES)}")
    parts = profiled(chosen)
    print(f"{case}, {torch.get_num_threads()} threads\n")
    print("| part | seconds | kind of operation | share |\n|---|---|---|---|")
    for part, profiler in parts.profiles.items():
        times: Counter[str] = Counter()
        events: list[Any] = list(profiler.key_averages())
        for event in events:
            times[kind_of(event.key)] += event.self_cpu_time_total
        for kind, microseconds in times.most_common():
            print(f"| {part} | {parts.seconds[part]:.2f} | {kind} | {microseconds / times.total():.0%} |")


def profiled(case: Case) -> ProfiledParts:
    """Runs two iterations, of which the second is profiled."""
    engine, parts = TransformersEngine(case.prompts * case.group_size), ProfiledParts()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(2, f"{folder}/run", "cpu", devices=1, callbacks=[parts])
        trainer.fit(case.module(), case.data(engine))
    return parts


def kind_of(operation: str) -> str:
    """The kind of an operation of the profiler."""
    for kind, names in KINDS.items():
        if any(operation == name if name.startswith("aten::") else name in operation for name in names):
            return kind
    return (
        "elementwise operations of the layers" if operation.startswith("aten::") else "Python and the autograd engine"
    )


if __name__ == "__main__":
    CLI(iteration_profile, as_positional=False)
