"""The training loop on Fabric; `fit` is Algorithm 1."""

import math
import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Literal, cast

import torch
from lightning.fabric.strategies import Strategy
from lightning.fabric.wrappers import _FabricModule
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from rence_lightning.distributed import check_peers, collectives, gather, max_over_ranks, rank_and_world
from rence_lightning.errors import Stopped, UserError
from rence_lightning.sampling.batch import IterationBatch
from rence_lightning.sampling.datamodule import RolloutDataModule
from rence_lightning.sampling.groups import Group
from rence_lightning.sampling.starvation import is_exhausted
from rence_lightning.training.fabric import make_fabric
from rence_lightning.training.launch import launch
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.optimizer_step import OptimizerStep
from rence_lightning.training.precision import Precision, Rounding, check_rounding
from rence_lightning.training.resumable import ResumableTrainer
from rence_lightning.training.stop import StopRequest
from rence_lightning.training.update_share import UpdateShare, drop_tokens_of_others, share_of_update

STANDARD_CALLBACKS = "rence_lightning.callbacks:standard_callbacks"
"""Import path of the standard set: the loop does not import any callback."""


class Trainer(ResumableTrainer):
    """Runs iterations of rollouts and updates, and calls Lightning's callbacks around them.

    Args:
        max_iterations: Number of iterations of the whole run, including those before it was resumed.
        run_dir: Directory that holds all files of the run. If it already holds a run, a new run is written to
            `RUN_DIR-2`, `RUN_DIR-3` and so on; a resumed run continues in its own directory. `validate` writes to
            `RUN_DIR-validate`.
        accelerator: Kind of device to run on: `auto`, `cpu`, `gpu`, ...
        devices: Number of devices on each machine, or a list of device indices, as in Lightning.
        num_nodes: Number of machines.
        strategy: Strategy that distributes the policy over devices: `auto`, `ddp`, or a `class_path`, such as
            `rence_lightning.training.FullyShardStrategy`, which shards the policy.
        precision: Precision of the computation: `32-true` computes in the parameters' data type (`model.dtype`),
            `bf16-mixed` in bfloat16 with parameters in float32, and `16-mixed` in float16, which has three more bits
            and a smaller range: the loss is scaled, and an update whose gradient overflows is skipped and counted.
            Fabric's `bf16-true` is not supported, because it also rounds the rotary frequencies.
        rounding: Rounding of the float32 weights to the type of the computation in mixed precision: `nearest` in every
            cast, or `stochastic` once after each update, to one copy for trainer and engine whose mean is the float32
            weights, so that small updates are seen. That copy is what is evaluated; exports hold the float32 weights.
            It takes 4 more bytes for each parameter (sharded, if they are).
        micro_batch_tokens: Largest number of tokens that one forward and backward pass computes on one device. This is
            the only size that is per device; it changes memory and speed, never the gradient. A group that does not fit
            is cut, and with an objective that couples responses scored once more: let it hold a group, if it can.
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
            Python, null takes the standard set: everything a run needs except benchmarks.
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
        rounding: Rounding = "nearest",
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
        check_rounding(rounding, precision)
        if cpu_threads is not None:
            if cpu_threads < 1:
                raise UserError(f"trainer: cpu_threads is {cpu_threads}; it must be >= 1, or null for torch's choice")
            torch.set_num_threads(cpu_threads)
        if callbacks is None:
            callbacks = pkgutil.resolve_name(STANDARD_CALLBACKS)()
        self.timeout = timedelta(minutes=timeout_minutes)
        self.max_restarts, self.shutdown_timeout = max_restarts, shutdown_timeout
        fabric = make_fabric(accelerator, devices, num_nodes, strategy, precision, self.timeout)
        step = OptimizerStep(fabric, gradient_clip_val, on_nonfinite)
        super().__init__(fabric, callbacks, Path(run_dir), loggers or [], step)
        self.max_iterations = max_iterations
        self.rounding = rounding
        self.micro_batch_tokens = micro_batch_tokens
        self._stop_request = StopRequest(self._what_follows)
        self._doing: Literal["rollouts", "updates", "evaluation", ""] = ""
        self._in_iteration = False

    @property
    def max_epochs(self) -> int:
        """Lightning's name for `max_iterations`."""
        return self.max_iterations

    @property
    def iteration(self) -> int:
        """Number of the iteration in progress, counted from 1; between iterations, the number of those done."""
        return self.current_epoch + self._in_iteration

    # ---- the two commands -------------------------------------------------------------------------------------------

    def fit(self, model: PolicyModule, datamodule: RolloutDataModule, ckpt_path: str | None = None) -> None:
        """Trains by Algorithm 1 until `max_iterations`, until a callback stops the run, or until all is mastered.

        Args:
            model: Policy with its objective and trust region.
            datamodule: Source of the rollouts, graded and filtered.
            ckpt_path: Checkpoint to resume from: `last`, `best`, a run directory or a checkpoint in one.
        """
        with self._session(model, datamodule, TrainerFn.FITTING, ckpt_path):
            if self.already_finished:
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
            self.finish()

    def validate(self, model: PolicyModule, datamodule: RolloutDataModule, ckpt_path: str | None = None) -> None:
        """Evaluates the policy, or that of a checkpoint, on the configured benchmarks, without training."""
        with self._session(model, datamodule, TrainerFn.VALIDATING, ckpt_path):
            self.evaluate()

    def evaluate(self) -> None:
        """Calls every callback's `on_evaluate`, during training or for `validate`."""
        before, self._doing = self._doing, "evaluation"
        self.lightning_module.eval()
        self.call("on_validation_start")
        self.call("on_evaluate")
        self.call("on_validation_end")
        self.lightning_module.train()
        self._doing = before

    @contextmanager
    def _session(
        self, model: PolicyModule, datamodule: RolloutDataModule, function: TrainerFn, ckpt_path: str | None
    ) -> Iterator[None]:
        """Sets the run up, then runs the loop; a signal or a failure on any rank ends all ranks in an orderly way."""
        if self.state.fn is not None:
            raise UserError("trainer: a Trainer runs once; make another one for the next fit or validate")
        self.enter(function)
        launch(self.fabric, self.max_restarts, self.shutdown_timeout)
        if (met := rank_and_world()[1]) not in (1, self.world_size):
            raise UserError(
                f"trainer: devices x num_nodes is {self.world_size}, but an earlier run of this process has joined it "
                f"to {met - 1} others; give {met} again, or start another Python process"
            )
        self.lightning_module, self.datamodule = model, datamodule
        with self.running():
            if self.training and not any(getattr(each, "sets_old_log_probs", False) for each in self.callbacks):
                raise UserError(
                    "trainer: no callback takes the log-probabilities of pi_old; add "
                    "rence_lightning.callbacks.OldPolicySnapshot, or omit `callbacks` to get the standard set"
                )
            self._set_up(model, datamodule, function, ckpt_path)
            with self._stop_request.listening():
                yield

    # ---- one iteration ----------------------------------------------------------------------------------------------

    @contextmanager
    def _iteration(self) -> Iterator[None]:
        """Undoes an iteration that ends before its first update: no prompt is drawn, mastered or cached."""
        before = self.datamodule.state_dict()
        self._in_iteration = True
        if self._rounding is not None:
            self._rounding.draw(self.iteration)
        try:
            yield
        except BaseException:
            if not self.moment[1] and not self.step.under_way:
                self.datamodule.load_state_dict(before)
                self.batch = None
            raise
        finally:
            self._doing, self._in_iteration = "", False

    def _rollouts(self, batches: Iterator[IterationBatch]) -> IterationBatch | None:
        """The next batch, sampled from the current policy, with log pi_old of the groups to train on."""
        self._doing = "rollouts"
        with self.fabric.autocast():  # the engine computes in the trainer's precision
            batch = next(batches, None)
        if batch is not None:
            self.call("on_rollouts_end", batch)
            pool = self.datamodule.pool
            if is_exhausted(batch, pool.left, len(pool.mastered)):
                self.should_stop = True
            batch.begin_updates()  # from here on, its groups are what is trained on
            self.call("on_updates_start", batch)
            self.stop_if_requested()  # still in time to discard them
            drop_tokens_of_others(batch.updates, self.micro_batch_tokens, self.global_rank, self.world_size)
        return batch

    def _end_iteration(self, batch: IterationBatch) -> None:
        """Logs the figures of an iteration, and counts it as done."""
        figures = {f"rollouts/{name}": value for name, value in batch.metrics().items()}
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
        self._doing = "updates"
        self.call("on_train_batch_start", groups, index)
        share = self.share_of_update(groups, at_old_policy=index == 0)
        metrics = self._backward(share)
        self.call("on_passes_end", share)
        metrics["learning_rate"] = self.optimizers[0].param_groups[0]["lr"]
        metrics["responses"] = share.totals.responses
        metrics |= self.step.take(
            self.lightning_module.policy,
            self.optimizers[0],
            self._scheduler,
            metrics["loss"],
            f"iteration {self.current_epoch + 1}, update {self.global_step + 1}",
            self.masters(),
        )
        assert self.batch is not None
        self.global_step += 1
        self.batch.updates_done.append(metrics)
        self.step.under_way = False
        self.call("on_train_batch_end", metrics, groups, index)
        self.log_metrics({f"train/{name}": value for name, value in metrics.items()}, self.current_epoch + 1)

    def _backward(self, share: UpdateShare) -> dict[str, float]:
        """Accumulates the gradient of an update; returns the update's figures, summed over micro-batches and ranks."""
        with collectives():
            figures = self._accumulate(share)
        shares = gather({name: float(value) for name, value in figures.items()})
        return {name: sum(share.get(name, 0.0) for share in shares) for name in sorted(set().union(*shares))}

    def _accumulate(self, share: UpdateShare) -> dict[str, Tensor]:
        """The passes of this rank's share of an update; returns its figures."""
        module = self.lightning_module
        policy = cast(_FabricModule, module.policy)
        module.train()
        with self.fabric.autocast():
            rows = module.passes(share)
        for number, row in enumerate(rows, start=1):
            with self.fabric.no_backward_sync(policy, enabled=number < len(rows)):
                with self.fabric.autocast():
                    loss = module.training_step(row, share)
                # Strategies average gradients over ranks, but the shares of a loss add up.
                self.fabric.backward(loss * self.world_size)
        return module.end_passes(share)

    def share_of_update(self, groups: list[Group], at_old_policy: bool) -> UpdateShare:
        """This rank's share of an update."""
        return share_of_update(
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

    def _what_follows(self) -> str:
        """What the run still does after a first signal, and what a second signal would lose."""
        if not self.is_global_zero:
            return ""
        iteration, again = self.current_epoch + 1, "again to stop now"
        if not self.training:
            return f"ending the evaluation; the finished samples are kept ({again})"
        if self._doing == "rollouts":
            return f"ending the rollouts of iteration {iteration}, then saving iteration {self.current_epoch} ({again})"
        if self._doing == "updates" and self.batch is not None:
            of = f"{self.moment[1] + 1} of {len(self.batch.updates)}"
            return f"finishing update {of} of iteration {iteration}, then saving ({again} and lose the iteration)"
        if self._doing == "evaluation":
            return f"ending the evaluation, then saving iteration {self.current_epoch} ({again})"
        return f"ending the run, after saving what it has learned ({again})"
