"""The training loop on Fabric; `fit` is Algorithm 1."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from lightning.fabric.strategies import Strategy
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.trainer.states import RunningStage, TrainerFn, TrainerState, TrainerStatus
from torch.optim.lr_scheduler import LRScheduler

from rence_lightning.distributed import (
    agree_on,
    check_peers,
    collectives,
    connect,
    disconnect,
    gather,
    max_over_ranks,
    rank_and_world,
)
from rence_lightning.errors import Stopped, UserError
from rence_lightning.run.checkpoint import rng_state
from rence_lightning.run.session import Session
from rence_lightning.sampling.batch import IterationBatch
from rence_lightning.sampling.datamodule import RolloutDataModule
from rence_lightning.sampling.groups import Group
from rence_lightning.sampling.starvation import is_exhausted
from rence_lightning.training.checkpoints import Checkpoints
from rence_lightning.training.fabric import Precision, check_trained, make_fabric
from rence_lightning.training.hooks import Hooks, check_callbacks
from rence_lightning.training.launch import launch
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.optimizer_step import OptimizerStep
from rence_lightning.training.stop import StopRequest, what_follows
from rence_lightning.training.update import Update, drop_tokens_of_others


class Trainer:
    """Runs iterations of rollouts and updates, and calls Lightning's callbacks around them.

    Args:
        max_iterations: Number of iterations of the whole run, including those before it was resumed.
        run_dir: Directory that holds all files of the run. If it already holds a run, a new run is written to
            `RUN_DIR-2`, `RUN_DIR-3` and so on; a resumed run continues in its own directory. `warmup` and
            `validate` write to `RUN_DIR-warmup` and `RUN_DIR-validate`.
        accelerator: Kind of device to run on: `auto`, `cpu`, `gpu`, ...
        devices: Number of devices on each machine, or a list of device indices, as in Lightning.
        num_nodes: Number of machines.
        strategy: Strategy that distributes the policy over devices: `auto`, `ddp`, or a `class_path`, such as
            `rence_lightning.training.FullyShardStrategy`, which shards the policy.
        precision: Precision of the computation: `32-true` computes in the parameters' data type (`model.dtype`),
            `bf16-mixed` in bfloat16 with parameters in float32, and `16-mixed` in float16, which has three more bits
            and a smaller range: the loss is scaled, and an update whose gradient overflows is skipped and counted.
            Fabric's `bf16-true` is not supported, because it also rounds the rotary frequencies.
        micro_batch_tokens: Largest number of tokens that one forward and backward pass computes on one device. This is
            the only size that is per device; it changes memory and speed, never the gradient. A group that does not fit
            is cut, and with an objective that couples responses scored once more: choose it so that a group fits.
        gradient_clip_val: Largest norm of an update's gradient; null disables clipping.
        on_nonfinite: Action when an update's loss or gradient is not finite: `stop` the run, or `skip` the update (and
            stop after ten skipped updates in a row). It does not concern overflows of the scaled gradient in
            `16-mixed`, of which ten in a row stop the run.
        timeout_minutes: Minutes after which a process that waits for another gives up and ends the run; must be more
            than processes differ in the time of their rollouts, and than rank 0 takes to load the weights.
        max_restarts: Number of times that a run of several devices is started again, from its newest checkpoint, after
            one of its processes has failed.
        shutdown_timeout: Seconds that the processes of such a run have to save after Ctrl-C or SIGTERM; must be more
            than an update and a checkpoint take.
        cpu_threads: Number of threads of a process on a CPU (default: torch's choice, one per core). With 1, a run that
            shares its cores with another job is not slowed down many times over.
        loggers: Further loggers, each given by `class_path`.
        callbacks: Further callbacks, each given by `class_path`, in addition to those that have keys of their own. In
            Python, all callbacks of the run: `rence_lightning.callbacks.standard_callbacks()` has what a run needs.

    Attributes:
        session: Run directory of the command, its lock, configuration and loggers.
        checkpoints: What a checkpoint holds of this run, saved and restored.
        batch: Batch of the iteration whose updates are being taken; None between iterations.
        global_step: Number of updates done.
        current_epoch: Number of iterations done, Lightning's epochs.
    """

    def __init__(
        self,
        max_iterations: int = 50,
        run_dir: str = "runs/rence",
        accelerator: str = "auto",
        devices: list[int] | str | int = "auto",
        num_nodes: int = 1,
        strategy: Strategy | str = "auto",
        precision: Precision = "32-true",
        micro_batch_tokens: int = 16384,
        gradient_clip_val: float | None = 1.0,
        on_nonfinite: Literal["stop", "skip"] = "stop",
        timeout_minutes: float = 120,
        max_restarts: int = 0,
        shutdown_timeout: int = 30,
        cpu_threads: int | None = None,
        loggers: list[Logger] | None = None,
        callbacks: list[Callback] | None = None,
    ) -> None:
        if max_iterations < 0 or micro_batch_tokens < 1:
            raise UserError(
                f"trainer: max_iterations ({max_iterations}) must be >= 0 and micro_batch_tokens "
                f"({micro_batch_tokens}) >= 1"
            )
        if gradient_clip_val is not None and gradient_clip_val <= 0:
            raise UserError(
                f"trainer: gradient_clip_val is {gradient_clip_val}; it must be > 0, or null for no clipping"
            )
        if timeout_minutes <= 0 or max_restarts < 0 or shutdown_timeout < 0:
            raise UserError(
                f"trainer: timeout_minutes ({timeout_minutes}) must be > 0, max_restarts ({max_restarts}) and "
                f"shutdown_timeout ({shutdown_timeout}) >= 0"
            )
        if cpu_threads is not None:
            if cpu_threads < 1:
                raise UserError(f"trainer: cpu_threads is {cpu_threads}; it must be >= 1, or null for torch's choice")
            torch.set_num_threads(cpu_threads)
        check_callbacks(callbacks or [])
        self.timeout = timedelta(minutes=timeout_minutes)
        self.max_restarts, self.shutdown_timeout = max_restarts, shutdown_timeout
        self.fabric = make_fabric(accelerator, devices, num_nodes, strategy, precision, self.timeout)
        self.max_iterations = max_iterations
        self.micro_batch_tokens = micro_batch_tokens
        self.callbacks = callbacks or []
        self.call = Hooks(self)
        self.session = Session(Path(run_dir).expanduser(), loggers or [])
        self.checkpoints = Checkpoints(self)
        self.step = OptimizerStep(self.fabric, gradient_clip_val, on_nonfinite)
        self.batch: IterationBatch | None = None
        self.scheduler: LRScheduler | None = None
        self.optimizers: list[Any] = []
        self.callback_metrics: dict[str, Any] = {}
        self.state = TrainerState(status=TrainerStatus.INITIALIZING)
        self.global_step = self.current_epoch = 0
        self.should_stop = False
        self._stop_request = StopRequest(lambda: what_follows(self))
        self.doing: Literal["rollouts", "updates", "evaluation", ""] = ""
        self._in_iteration = False

    # ---- the two commands -------------------------------------------------------------------------------------------

    def fit(self, model: PolicyModule, datamodule: RolloutDataModule, ckpt_path: str | None = None) -> None:
        """Trains by Algorithm 1 until `max_iterations`, until a callback stops the run, or until all is mastered.

        Args:
            model: Policy with its objective and trust region.
            datamodule: Source of the rollouts, graded and filtered.
            ckpt_path: Checkpoint to resume from: `last`, `best`, a run directory or a checkpoint in one.
        """
        with self._running(model, datamodule, TrainerFn.FITTING, ckpt_path):
            if self.session.already_finished:
                self.call("on_already_finished")
                return
            self.call("on_fit_start")
            self.call("on_train_start")
            batches = iter(datamodule.train_dataloader(self))
            while self.current_epoch < self.max_iterations and not self.should_stop:
                with self._iteration():
                    self.call("on_train_epoch_start")
                    if self.batch is None:
                        self.batch = self._rollouts(batches)  # lines 2-18: sample from pi_old, grade, filter, cache
                    if self.batch is None:
                        break  # every prompt is mastered
                    self._updates(self.batch)  # lines 19-21: one optimizer step for each mini-batch
                    self._end_iteration(self.batch)
                self.stop_if_requested()
                self.call("on_train_epoch_end")
            self.call("on_train_end")
            self.call("on_fit_end")
            if self.is_global_zero:
                self.session.finish()

    def validate(self, model: PolicyModule, datamodule: RolloutDataModule, ckpt_path: str | None = None) -> None:
        """Evaluates the policy, or that of a checkpoint, on the configured benchmarks, without training."""
        with self._running(model, datamodule, TrainerFn.VALIDATING, ckpt_path):
            self.evaluate()

    def evaluate(self) -> None:
        """Calls every callback's `on_evaluate`, during training or for `validate`."""
        before, self.doing = self.doing, "evaluation"
        self.lightning_module.eval()
        self.call("on_validation_start")
        self.call("on_evaluate")
        self.call("on_validation_end")
        self.lightning_module.train()
        self.doing = before

    @contextmanager
    def _running(
        self, model: PolicyModule, datamodule: RolloutDataModule, function: TrainerFn, ckpt_path: str | None
    ) -> Iterator[None]:
        """Sets the run up, then runs the loop; a signal or a failure on any rank ends all ranks in the same way.

        Raises:
            BaseException: The error that all ranks end with, if one of them has failed.
        """
        if self.state.fn is not None:
            raise UserError("trainer: a Trainer runs once; make another one for the next fit or validate")
        training = function == TrainerFn.FITTING
        self.state.fn, self.state.status = function, TrainerStatus.RUNNING
        self.state.stage = RunningStage.TRAINING if training else RunningStage.VALIDATING
        launch(self.fabric, self.max_restarts, self.shutdown_timeout)
        if (met := rank_and_world()[1]) not in (1, self.world_size):
            raise UserError(
                f"trainer: devices x num_nodes is {self.world_size}, but an earlier run of this process has joined it "
                f"to {met - 1} others; give {met} again, or start another Python process"
            )
        self.lightning_module, self.datamodule = model, datamodule
        connect(self.timeout)
        status: TrainerStatus = TrainerStatus.INTERRUPTED
        agreed = None
        try:
            self._set_up(str(function.value), ckpt_path)
            with self._stop_request.listening():
                yield
            gather(None)  # a failure in the last step of another rank ends this rank as well
            status = TrainerStatus.FINISHED
        except BaseException as error:
            agreed = agree_on(error)
            self.call.after(agreed, "on_exception", agreed)
            if agreed is error:
                raise
            raise agreed from error
        finally:
            self.state.status = status
            if hasattr(datamodule, "sampler"):
                datamodule.sampler.close()
            try:
                for logger in self.loggers if self.is_global_zero else ():
                    logger.finalize("success" if status == TrainerStatus.FINISHED else "failed")
                self.call.after(agreed, "teardown", str(function.value))
            finally:
                self.session.close()
                disconnect()

    def _set_up(self, stage: str, ckpt_path: str | None) -> None:
        """Loads policy, data and checkpoint, and opens the run directory last, so that bad settings leave no files."""
        module, datamodule = self.lightning_module, self.datamodule
        command = datamodule.command if self.training else "validate"
        if command == "fit" and not any(getattr(each, "sets_old_log_probs", False) for each in self.callbacks):
            raise UserError(
                "trainer: no callback takes the log-probabilities of pi_old; add OldPolicySnapshot, or pass "
                "callbacks=rence_lightning.callbacks.standard_callbacks()"
            )
        module.trainer = datamodule.trainer = self  # type: ignore[assignment]
        checkpoint = self.session.find(ckpt_path, command)
        datamodule.template.started = self.session.started
        module.load(self.fabric, self.training)
        datamodule.connect(module.policy)
        module.place(self.fabric)
        with self.fabric.autocast():  # in which the engine will sample
            datamodule.sampler.check()
        self.call("setup", stage)  # callbacks check their settings
        datamodule.setup(stage)  # afterwards, because the callbacks name the problems to hold out
        if self.training:
            check_trained(self.precision, module.policy.parameters())
            updates = self.max_iterations * datamodule.prompts_per_iteration // datamodule.prompts_per_update
            optimizer, self.scheduler = module.configure_optimizers(updates)  # of the shards, where there are any
            self.optimizers = [self.fabric.setup_optimizers(optimizer)]
        if checkpoint is not None:
            (self.checkpoints.load if self.training else self.checkpoints.load_policy)(checkpoint)
        problems = {**datamodule.cleaned.record(), "too_long": datamodule.dropped_too_long} if self.training else None
        done = self.batch is None and self.current_epoch >= self.max_iterations
        self.session.open(done, self.global_step, problems, self.is_global_zero)

    # ---- one iteration ----------------------------------------------------------------------------------------------

    @contextmanager
    def _iteration(self) -> Iterator[None]:
        """Undoes an iteration that ends before its first update: no prompt is drawn, mastered or cached."""
        before, rng = self.datamodule.state_dict(), rng_state()
        self._in_iteration = True
        try:
            yield
        except BaseException:
            if not self.progress[1] and not self.step.under_way:
                self.datamodule.load_state_dict(before)
                self.checkpoints.rng = rng  # not set, because a reward may still draw on its thread
                self.batch = None
            raise
        finally:
            self.doing, self._in_iteration = "", False

    def _rollouts(self, batches: Iterator[IterationBatch]) -> IterationBatch | None:
        """The next batch, sampled from the current policy; the callback of pi_old adds its log-probabilities."""
        self.doing = "rollouts"
        with self.fabric.autocast():  # the engine computes in the trainer's precision
            batch = next(batches, None)
        if batch is not None:
            batch.figures |= self.call("on_rollouts_end", batch)
            pool = self.datamodule.pool
            if self.datamodule.command == "fit" and is_exhausted(batch, pool.left, len(pool.mastered)):
                self.should_stop = True
            batch.begin_updates()  # from here on, its groups are what is trained on
            batch.figures |= self.call("on_updates_start", batch)  # OldPolicySnapshot: log pi_old
            self.stop_if_requested()  # still in time to discard them
            for groups in batch.updates:
                drop_tokens_of_others(groups, self.global_rank, self.world_size)
        return batch

    def _end_iteration(self, batch: IterationBatch) -> None:
        """Logs the figures of an iteration, and counts it as done."""
        figures = {f"rollouts/{name}": value for name, value in batch.metrics().items()}
        if self.datamodule.command == "fit":
            figures["rollouts/prompts_left"] = self.datamodule.pool.left
        figures["train/updates_skipped"] = self.step.skipped
        if self.precision == "16-mixed":
            figures["train/updates_overflowed"] = self.step.overflowed
        updates = batch.updates_done
        for name in dict.fromkeys(name for update in updates for name in update):
            values = [update[name] for update in updates if math.isfinite(update.get(name, math.nan))]
            if values:  # the figures of a skipped update may not be numbers
                figures[f"iteration/{name}"] = sum(values) / len(values)
        self.log_metrics(figures, self.current_epoch + 1)
        self.current_epoch, self.batch = self.current_epoch + 1, None

    # ---- one update -------------------------------------------------------------------------------------------------

    def _updates(self, batch: IterationBatch) -> None:
        """Lines 19-21: the updates that are left of an iteration."""
        for groups in batch.updates[len(batch.updates_done) :]:
            self._update(groups, len(batch.updates_done))
            self.stop_if_requested()

    def _update(self, groups: list[Group], index: int) -> None:
        """Line 20: one optimizer step on the groups of a mini-batch."""
        assert self.batch is not None
        self.doing = "updates"
        self.call("on_train_batch_start", groups, index)
        update = self.plan_update(groups, at_old_policy=index == 0)
        with collectives():
            metrics = update.backward(self.lightning_module, self.fabric)
        self.batch.figures |= self.call("on_passes_end", update)
        metrics["learning_rate"] = self.optimizers[0].param_groups[0]["lr"]
        metrics["responses"] = update.totals.responses
        name = f"iteration {self.current_epoch + 1}, update {self.global_step + 1}"
        metrics |= self.step.take(self.optimizers[0], self.scheduler, metrics["loss"], name)
        self.global_step += 1
        self.batch.updates_done.append(metrics)
        self.step.under_way = False
        metrics |= self.call("on_train_batch_end", MappingProxyType(metrics), groups, index)
        self.log_metrics({f"train/{name}": value for name, value in metrics.items()}, self.current_epoch + 1)

    def plan_update(self, groups: list[Group], at_old_policy: bool) -> Update:
        """The update on the groups of a mini-batch, with this rank's passes."""
        return Update(
            groups,
            self.micro_batch_tokens,
            self.global_rank,
            self.world_size,
            packed=self.lightning_module.policy.packed,
            couples=self.lightning_module.objective.couples_responses,
            at_old_policy=at_old_policy,
        )

    # ---- rollouts report here (RolloutListener) ---------------------------------------------------------------------

    def on_draw(self, batch: IterationBatch, prompts: int, group_size: int) -> None:
        self.stop_if_requested()
        self.call("on_draw", batch, prompts, group_size)

    def on_tokens(self, responses: int, tokens: int) -> None:
        """Ends sampling at once if this rank is interrupted or another has failed; the iteration can be undone."""
        if self._stop_request.signal:
            raise Stopped(self._stop_request.signal)
        check_peers()
        self.call("on_tokens", responses, tokens)

    # ---- interruptions ----------------------------------------------------------------------------------------------

    def stop_if_requested(self) -> None:
        """Ends the run here if any rank was interrupted; called where the state can be saved or undone."""
        if number := int(max_over_ranks(float(self._stop_request.signal))):
            raise Stopped(number)

    # ---- where the run stands ---------------------------------------------------------------------------------------

    @property
    def iteration(self) -> int:
        """Number of the iteration in progress, counted from 1; between iterations, the number of those done."""
        return self.current_epoch + self._in_iteration

    @property
    def progress(self) -> tuple[int, int]:
        """Number of iterations done, and number of updates done in the iteration after them."""
        return self.current_epoch, len(self.batch.updates_done) if self.batch is not None else 0

    @property
    def training(self) -> bool:
        """Whether the command trains: `fit` or `warmup`."""
        return self.state.fn == TrainerFn.FITTING

    @property
    def run_dir(self) -> Path:
        """Directory of the run."""
        return self.session.run_dir

    def log_metrics(self, metrics: dict[str, float], iteration: int) -> None:
        """Sends figures to the loggers, at the current update, and to `callback_metrics` for other callbacks.

        Args:
            metrics: Figures by name.
            iteration: Iteration that the figures belong to, counted from 1; 0 is before training.
        """
        self.callback_metrics.update({name: torch.tensor(value) for name, value in metrics.items()})
        if self.is_global_zero:
            for logger in self.loggers:
                logger.log_metrics({**metrics, "iteration": iteration}, step=self.global_step)

    # ---- what else Lightning's callbacks and loggers read of a trainer ----------------------------------------------

    fast_dev_run = False
    sanity_checking = False
    enable_validation = True
    val_check_interval = 1.0
    check_val_every_n_epoch = None
    """Not 1, so that EarlyStopping checks its metric after evaluations by default: not every iteration has one."""
    num_sanity_val_batches = 0
    lr_scheduler_configs = ()

    max_epochs = property(lambda self: self.max_iterations)
    strategy = property(lambda self: self.fabric.strategy)
    loggers = property(lambda self: self.session.loggers)
    logger = property(lambda self: self.loggers[0] if self.loggers else None)
    log_dir = default_root_dir = property(lambda self: str(self.run_dir))
    is_global_zero = property(lambda self: self.fabric.is_global_zero)
    global_rank = property(lambda self: self.fabric.global_rank)
    local_rank = property(lambda self: self.fabric.local_rank)
    world_size = property(lambda self: self.fabric.world_size)
    precision = property(lambda self: str(self.fabric.strategy.precision.precision))
