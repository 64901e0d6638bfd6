"""A short run of the embedded policy in the project's trainer, and what its callbacks see: `short_run`."""

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu_check.settings import Engine
from benchmarks.gpu_check.stand_ins import EveryOther, LongestResponses
from rence_lightning.callbacks import Callback, OldPolicySnapshot
from rence_lightning.distributed import max_over_ranks
from rence_lightning.prompts import ArithmeticProblems, PromptTemplate
from rence_lightning.rollouts import Request, Rollout, RolloutEngine, Sampling, TransformersEngine, VLLMEngine
from rence_lightning.sampling import NoFilter
from rence_lightning.sampling.batch import IterationBatch
from rence_lightning.sampling.datamodule import RolloutDataModule
from rence_lightning.sampling.groups import Group
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.strategy import FullyShardStrategy
from rence_lightning.training.trainer import Trainer
from rence_lightning.training.update import Update

SHORT_RUN = "benchmarks.gpu_check.short_run:short_run"
"""Import path of `short_run`, for `launch.call`."""

GREEDY = Sampling(temperature=0, max_response_tokens=24)
ENGINE_SETTINGS: dict[str, Any] = {"max_model_len": 96, "max_num_seqs": 64}


def make_engine(kind: Engine, cpu: bool, **settings: Any) -> RolloutEngine:
    """An engine for the embedded policy, which takes a small part of a device."""
    if kind == "transformers":
        return TransformersEngine(max_num_seqs=64)
    memory = {"kv_cache_memory_bytes": 2**26} if cpu else {"gpu_memory_utilization": 0.2}
    return VLLMEngine(**{**ENGINE_SETTINGS, **memory, **settings})


def greedy_requests(policy: Any, count: int = 16) -> list[Request]:
    """Requests for the most likely response to the first problems of the demo."""
    texts = [problem.problem for problem in ArithmeticProblems("test").load()[:count]]
    return [Request(policy.tokenizer(f"{text}\n").input_ids, 1, GREEDY, seed) for seed, text in enumerate(texts)]


def sampled(engine: RolloutEngine, requests: list[Request]) -> list[list[Rollout]]:
    """The responses to each request, in the order of the requests."""
    groups = [group for step in engine.generate(requests) for group in step.finished]
    return [group.rollouts for group in sorted(groups, key=lambda group: group.index)]


class Probe(Callback):
    """Keeps what a run computes.

    Attributes:
        updates: Loss and gradient norm of each update.
        log_ratios: Largest absolute value of log pi_theta - log pi_old of a token in each update, over all ranks.
        engine_differences: Mean absolute difference between the log-probabilities of engine and trainer, by iteration.
        greedy: Token ids of the most likely responses after the last update.
    """

    def __init__(self) -> None:
        self.updates: list[dict[str, float]] = []
        self.log_ratios: list[float] = []
        self.engine_differences: list[float] = []
        self.greedy: list[list[int]] = []

    def on_passes_end(self, trainer: Trainer, module: PolicyModule, update: Update) -> None:
        largest = 0.0
        for group, current in zip(update.groups, update.log_probs, strict=True):
            for old, new in zip(group.old_log_probs, current, strict=True):
                assert new is not None
                largest = max(largest, float((new.cpu() - old.cpu()).abs().max()))
        self.log_ratios.append(max_over_ranks(largest))

    def on_train_batch_end(
        self, trainer: Trainer, module: PolicyModule, outputs: dict[str, Any], batch: list[Group], batch_idx: int
    ) -> None:
        self.updates.append({name: float(outputs[name]) for name in ("loss", "grad_norm")})

    def on_train_epoch_end(self, trainer: Trainer, module: PolicyModule) -> None:
        difference = trainer.callback_metrics["rollouts/mismatch_abs"]
        self.engine_differences.append(float(difference))

    def on_train_end(self, trainer: Trainer, module: PolicyModule) -> None:
        engine = trainer.datamodule.engine
        if isinstance(engine, LongestResponses):
            return
        engine.sync(module.policy)
        self.greedy = [group[0].token_ids.tolist() for group in sampled(engine, greedy_requests(module.policy))]
        engine.release()


def short_run(
    run_dir: str,
    cpu: bool,
    devices: int,
    sharded: bool,
    precision: str,
    engine: Engine | None,
    engine_settings: dict[str, Any] | None = None,
    learning_rate: float = 1e-4,
    iterations: int = 2,
    change: Callable[[IterationBatch], None] | None = None,
) -> dict[str, Any] | None:
    """Two iterations, with two updates each, of the embedded policy.

    Args:
        run_dir: Directory of the run.
        cpu: Whether it runs on the CPU.
        devices: Number of devices.
        sharded: Whether the policy is sharded over them.
        precision: Precision of the trainer.
        engine: Engine; None takes random responses that are the same whatever the policy and the devices.
        engine_settings: Settings of the vLLM engine in addition to those for a small policy.
        learning_rate: Learning rate.
        iterations: Number of iterations.
        change: Function that changes the groups of an iteration after pi_old was taken; only in tests.

    Returns:
        The attributes of `Probe` by name, and the precision that the strategy has; None on ranks other than 0.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.manual_seed(0)
    module = PolicyModule(
        "embedded:arithmetic",
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=learning_rate),
        gradient_checkpointing=True,
    )
    data = RolloutDataModule(
        problems=[ArithmeticProblems("train")],
        template=PromptTemplate("{problem}\n", chat=False),
        engine=LongestResponses() if engine is None else make_engine(engine, cpu, **(engine_settings or {})),
        reward=EveryOther(),
        filter=NoFilter(),
        sampling=Sampling(max_response_tokens=32),
        group_size=8,
        prompts_per_iteration=8,
        prompts_per_update=4,
        max_prompt_tokens=32,
    )
    probe = Probe()
    callbacks: list[Any] = [OldPolicySnapshot(), *([Change(change)] if change is not None else []), probe]
    trainer = Trainer(
        max_iterations=iterations,
        run_dir=run_dir,
        accelerator="cpu" if cpu else "gpu",
        devices=devices,
        strategy=FullyShardStrategy() if sharded else "auto",
        precision=precision,  # type: ignore[arg-type]
        micro_batch_tokens=1024,
        callbacks=callbacks,
    )
    trainer.fit(module, data)
    found = {**vars(probe), "precision": trainer.precision} if trainer.is_global_zero else None
    if (close := getattr(data.engine, "close", None)) is not None:
        close()
    return found


class Change(Callback):
    """Changes the groups of an iteration after pi_old was taken."""

    def __init__(self, change: Callable[[IterationBatch], None]) -> None:
        self.change = change

    def on_updates_start(self, trainer: Trainer, module: PolicyModule, batch: IterationBatch) -> None:
        self.change(batch)
