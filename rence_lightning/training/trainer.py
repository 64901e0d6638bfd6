"""The training loop on Fabric: one iteration reads like Algorithm 1."""

import json
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import yaml
from lightning.fabric import Fabric
from lightning.fabric.strategies import Strategy
from lightning.fabric.wrappers import _FabricModule
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.trainer.states import TrainerFn
from torch.optim.lr_scheduler import LRScheduler

from rence_lightning.distributed import gather, max_over_ranks
from rence_lightning.errors import EngineError, NonFiniteError, UserError
from rence_lightning.run.checkpoint import load_checkpoint, load_policy_weights, peek_steps, save_checkpoint
from rence_lightning.run.directory import find_checkpoint, new_run_directory, run_directory_of, unfinished_evaluation
from rence_lightning.run.loggers import run_loggers
from rence_lightning.sampling.datamodule import IterationBatch, RolloutDataModule
from rence_lightning.sampling.groups import Group
from rence_lightning.training.lightning_facade import LightningFacade
from rence_lightning.training.micro_batches import UpdateShare, share_of_update
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.stop import Stopped, StopRequest
from rence_lightning.training.strategy import FullyShardStrategy

Precision = Literal["32-true", "bf16-mixed", "64-true"]

SKIPS_IN_A_ROW = 10
"""Updates that may be skipped one after the other before the run stops: the policy itself must be broken."""


class Trainer(LightningFacade):
    """Runs iterations of rollouts and updates, and calls Lightning's callbacks around them.

    Args:
        max_iterations: Iterations of the whole run, those before a resume included.
        run_dir: Holds all of the run. Where a run is in it already, `RUN_DIR-2` and so on is taken instead; a resumed
            run goes on in its own. `validate` writes to `RUN_DIR-validate`.
        accelerator: `auto`, `cpu`, `gpu`, ...
        devices: As in Lightning.
        num_nodes: As in Lightning.
        strategy: `auto`, `ddp`, ... as in Lightning Fabric, or the `class_path` of one: to shard the policy,
            `rence_lightning.training.FullyShardStrategy`.
        precision: `32-true` computes in the parameters' own type (`model.dtype`), `bf16-mixed` in bfloat16 with
            parameters in float32. Fabric's `bf16-true` is not offered: it rounds rotary frequencies as well.
        micro_batch_tokens: Tokens (padding counted) of one forward and backward pass on one device. The one size that
            is per device; it changes memory and speed, never the gradient.
        gradient_clip_val: Largest norm of an update's gradient; null leaves it as it is.
        on_nonfinite: What to do when an update's gradient is not finite: `stop` the run, or `skip` the update (and stop
            after ten in a row).
        loggers: Further loggers, by `class_path`.
        callbacks: Further callbacks, by `class_path`.
    """

    lightning_module: PolicyModule
    datamodule: RolloutDataModule

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
        loggers: list[Logger] | None = None,
        callbacks: list[Callback] | None = None,
    ) -> None:
        if max_iterations < 0 or micro_batch_tokens < 1:
            raise UserError("trainer: max_iterations must be >= 0 and micro_batch_tokens >= 1")
        if gradient_clip_val is not None and gradient_clip_val <= 0:
            raise UserError(
                f"trainer: gradient_clip_val is {gradient_clip_val}; it must be > 0, or null for no clipping"
            )
        try:
            fabric = Fabric(
                accelerator=accelerator,
                devices=devices,
                num_nodes=num_nodes,
                strategy=strategy,
                precision=precision,
            )
        except (ValueError, RuntimeError, TypeError) as error:  # Fabric's ways of saying that a setting is impossible
            raise UserError(
                f"trainer: accelerator {accelerator}, devices {devices}, strategy {strategy}, precision {precision}: "
                f"{error}"
            ) from error
        super().__init__(fabric, callbacks or [])
        self.max_iterations = max_iterations
        self.wanted_run_dir = Path(run_dir)
        self.run_dir = Path(run_dir)
        self.micro_batch_tokens = micro_batch_tokens
        self.gradient_clip_val = gradient_clip_val
        self.on_nonfinite = on_nonfinite
        self.updates_skipped = 0
        self._skipped_in_a_row = 0
        self._scheduler: LRScheduler | None = None
        self.config_yaml: str | None = None
        self._extra_loggers = loggers or []
        self._resumed_from: Path | None = None
        self._stop_request = StopRequest()

    @property
    def max_epochs(self) -> int:
        """Lightning's word for `max_iterations`."""
        return self.max_iterations

    # ---- the two commands -------------------------------------------------------------------------------------------

    def fit(self, model: PolicyModule, datamodule: RolloutDataModule, ckpt_path: str | None = None) -> None:
        """Trains: Algorithm 1 until `max_iterations`, a callback's stop, or the mastery of every prompt.

        Args:
            model: The policy, its objective and trust region.
            datamodule: Samples, grades and filters what is trained on.
            ckpt_path: Resume from here: `last`, `best`, a run directory or a checkpoint in one.
        """
        self._set_up(model, datamodule, TrainerFn.FITTING, ckpt_path)
        with self.running(), self._stop_request.listening():
            self.call("on_fit_start")
            self.call("on_train_start")
            batches = iter(datamodule.train_dataloader(self))
            while self.current_epoch < self.max_iterations and not self.should_stop:
                self.call("on_train_epoch_start")
                with self._whole_or_not_begun(), self.fabric.autocast():  # the engine computes in our precision
                    batch = next(batches, None)  # lines 2-18: sample from pi_old, grade, filter, master, cache
                if batch is None:
                    break  # every prompt is mastered
                self.call("on_rollouts_end", batch)  # log pi_old of what is trained on
                datamodule.check_starved(batch)
                updates = [self._update(groups, index) for index, groups in enumerate(batch.updates)]  # lines 19-21
                self.current_epoch += 1
                self._log_iteration(batch, updates)
                self.stop_if_told()
                self.call("on_train_epoch_end")
            self.call("on_train_end")
            self.call("on_fit_end")

    def validate(self, model: PolicyModule, datamodule: RolloutDataModule, ckpt_path: str | None = None) -> None:
        """Evaluates the policy, or the one of a checkpoint, on the configured benchmarks; nothing is trained."""
        self._set_up(model, datamodule, TrainerFn.VALIDATING, ckpt_path)
        with self.running():
            self.evaluate()

    def evaluate(self) -> None:
        """Runs every callback's `on_evaluate`, in training or on its own."""
        self.lightning_module.eval()
        self.call("on_validation_start")
        self.call("on_evaluate")
        self.call("on_validation_end")
        self.lightning_module.train()

    # ---- one update -------------------------------------------------------------------------------------------------

    def _update(self, groups: list[Group], index: int) -> dict[str, float]:
        """Line 20: one optimizer step on the groups of a mini-batch."""
        self.call("on_train_batch_start", groups, index)
        share = share_of_update(groups, self.micro_batch_tokens, self.global_rank, self.world_size)
        metrics = self._backward(share)
        metrics["learning_rate"] = self.optimizers[0].param_groups[0]["lr"]
        metrics["responses"] = share.totals.responses
        metrics["grad_norm"] = self._step(metrics["loss"])
        self.global_step += 1
        self.call("on_train_batch_end", metrics, groups, index)
        self.log_metrics({f"train/{name}": value for name, value in metrics.items()}, self.current_epoch + 1)
        return metrics

    def _backward(self, share: UpdateShare) -> dict[str, float]:
        """Accumulates the gradient of an update; returns its figures, summed over micro-batches and ranks."""
        module = self.lightning_module
        policy = cast(_FabricModule, module.policy)
        module.train()
        with self.fabric.autocast():
            passes, figures = module.micro_batches(share)
        for number, micro_batch in enumerate(passes, start=1):
            with self.fabric.no_backward_sync(policy, enabled=number < len(passes)):
                with self.fabric.autocast():
                    loss, metrics = module.training_step(micro_batch, share.totals)
                # Strategies average gradients over ranks, but the shares of a loss add up.
                self.fabric.backward(loss * self.world_size)
            figures.append(metrics)
        mine: Counter[str] = Counter()
        for metrics in figures:
            mine.update({name: float(value) for name, value in metrics.items()})
        shares = gather(dict(mine))
        return {name: sum(share.get(name, 0.0) for share in shares) for name in sorted(set().union(*shares))}

    def _step(self, loss: float) -> float:
        """Clips the gradient and takes the optimizer's step, if loss and gradient are finite; returns the norm before
        clipping."""
        optimizer, module = self.optimizers[0], self.lightning_module
        limit = self.gradient_clip_val if self.gradient_clip_val is not None else float("inf")
        norm = self.fabric.clip_gradients(
            module.policy, optimizer, max_norm=limit, norm_type=2.0, error_if_nonfinite=False
        )
        assert norm is not None
        total = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
        if math.isfinite(total) and math.isfinite(loss):
            optimizer.step()
            self._skipped_in_a_row = 0
            if self._scheduler is not None:
                self._scheduler.step()
        else:
            self.updates_skipped += 1
            self._skipped_in_a_row += 1
            if self.on_nonfinite == "stop" or self._skipped_in_a_row == SKIPS_IN_A_ROW:
                raise NonFiniteError(
                    f"iteration {self.current_epoch + 1}, update {self.global_step + 1}: the loss is {loss}, the "
                    f"gradient's norm {total}, and {self._skipped_in_a_row} updates in a row were not taken (lower the "
                    "learning rate, or set trainer.on_nonfinite to skip where this is rare)"
                )
        optimizer.zero_grad(set_to_none=True)
        return total

    @contextmanager
    def _whole_or_not_begun(self) -> Iterator[None]:
        """Rollouts that end early leave no trace: no prompt is drawn, mastered or cached by half an iteration."""
        before = self.datamodule.state_dict()
        try:
            yield
        except (Stopped, EngineError):
            self.datamodule.load_state_dict(before)
            raise

    # ---- rollouts report here (RolloutListener) ---------------------------------------------------------------------

    def on_draw(self, batch: IterationBatch, prompts: int, group_size: int) -> None:
        self.stop_if_told()
        self.call("on_draw", batch, prompts, group_size)

    def on_tokens(self, responses: int, tokens: int) -> None:
        self.call("on_tokens", responses, tokens)

    # ---- being told to stop: after the updates of an iteration, or before the next rollouts ------------------------

    def _told_to_stop(self) -> bool:
        """Whether any rank was: all must stop at the same place."""
        return max_over_ranks(float(self._stop_request.signal)) > 0

    def stop_if_told(self) -> None:
        """Ends the run here if it was told to stop; called where nothing is half done, or can be taken back."""
        if self._told_to_stop():
            raise Stopped(self._stop_request.signal)

    # ---- set-up and figures -----------------------------------------------------------------------------------------

    def _set_up(
        self, module: PolicyModule, datamodule: RolloutDataModule, function: TrainerFn, ckpt_path: str | None
    ) -> None:
        self.enter(function)
        self.fabric.launch()
        self.lightning_module, self.datamodule = module, datamodule
        module.trainer = datamodule.trainer = self  # type: ignore[assignment]
        checkpoint = find_checkpoint(ckpt_path, self.wanted_run_dir) if ckpt_path is not None else None
        self._resumed_from = checkpoint
        self._load_policy(module)
        datamodule.connect(module.policy)
        # The order matters: a strategy shards the parameters here, and the optimizer must be given the shards.
        module.policy = self.fabric.setup_module(module.policy)  # type: ignore[assignment]
        self.call("setup", str(function.value))  # callbacks check their settings; nothing is written yet
        datamodule.setup(str(function.value))  # what they evaluate on is held out
        if function == TrainerFn.FITTING:
            optimizer, self._scheduler = module.configure_optimizers()
            self.optimizers = [self.fabric.setup_optimizers(optimizer)]
            if checkpoint is not None:
                self._load_run_state(load_checkpoint(self.fabric, checkpoint, module.policy, self.optimizers[0]))
        elif checkpoint is not None:
            self.current_epoch = load_policy_weights(self.fabric, checkpoint, module.policy)["iteration"]
        self._open_run_directory(checkpoint)

    def _load_policy(self, module: PolicyModule) -> None:
        """Loads the policy, on rank 0 alone where the strategy hands the shards out from there."""
        if not isinstance(self.fabric.strategy, FullyShardStrategy):
            module.configure_model()
            return
        failure = None
        if self.is_global_zero:
            try:
                module.configure_model()
            except UserError as error:
                failure = str(error)
        failure = self.fabric.broadcast(failure)
        if failure is not None:
            raise UserError(failure)
        module.configure_model(empty=not self.is_global_zero)  # does nothing where there is a policy

    def _open_run_directory(self, checkpoint: Path | None) -> None:
        steps_done = 0
        if checkpoint is not None and self.training:
            self.run_dir, steps_done = run_directory_of(checkpoint), peek_steps(checkpoint)
        elif self.is_global_zero:
            self.run_dir = new_run_directory(self.wanted_run_dir) if self.training else self._validate_directory()
        self.run_dir = self.fabric.broadcast(self.run_dir)
        if self.is_global_zero and self.training:
            account = json.dumps(self.datamodule.cleaned.record(), indent=1)
            (self.run_dir / "training_problems.json").write_text(account + "\n")
        if self.is_global_zero and self.config_yaml is not None:
            name = "config.yaml" if checkpoint is None or not self.training else f"config-from-{checkpoint.name}.yaml"
            (self.run_dir / name).write_text(self.config_yaml)
        self.loggers = run_loggers(self.run_dir, steps_done, self._extra_loggers, self.is_global_zero)
        if self.is_global_zero and self.config_yaml is not None:
            for logger in self._extra_loggers:
                logger.log_hyperparams(yaml.safe_load(self.config_yaml))

    def _validate_directory(self) -> Path:
        """A new one, or that of an evaluation of the same configuration that was broken off."""
        wanted = self.wanted_run_dir.with_name(f"{self.wanted_run_dir.name}-validate")
        unfinished = unfinished_evaluation(wanted, self.config_yaml) if self.config_yaml is not None else None
        return unfinished if unfinished is not None else new_run_directory(wanted)

    @property
    def resumed_from(self) -> Path | None:
        """The checkpoint this run started from, if any."""
        return self._resumed_from

    def save_checkpoint(self, folder: Path) -> None:
        """Saves everything that the next step depends on; called on every rank."""
        policy, optimizer = self.lightning_module.policy, self.optimizers[0]
        save_checkpoint(self.fabric, folder, policy, optimizer, self._run_state(), self.global_step)

    def _run_state(self) -> dict[str, Any]:
        run: dict[str, Any] = {
            "global_step": self.global_step,
            "iteration": self.current_epoch,
            "updates_skipped": self.updates_skipped,
            "data": self.datamodule.state_dict(),
            "lr_scheduler": self._scheduler.state_dict() if self._scheduler is not None else None,
            "callbacks": {callback.state_key: state for callback in self.callbacks if (state := callback.state_dict())},
        }
        self.lightning_module.on_save_checkpoint(run)
        return run

    def _load_run_state(self, run: dict[str, Any]) -> None:
        self.global_step = run["global_step"]
        self.current_epoch = run["iteration"]
        self.updates_skipped = run["updates_skipped"]
        self.lightning_module.on_load_checkpoint(run)
        self.datamodule.load_state_dict(run["data"])
        if self._scheduler is not None:
            self._scheduler.load_state_dict(run["lr_scheduler"])
        for callback in self.callbacks:
            if callback.state_key in run["callbacks"]:
                callback.load_state_dict(run["callbacks"][callback.state_key])

    def _log_iteration(self, batch: IterationBatch, updates: list[dict[str, float]]) -> None:
        figures = {f"rollouts/{name}": value for name, value in batch.metrics().items()}
        figures["rollouts/prompts_left"] = self.datamodule.pool.left
        figures["train/updates_skipped"] = self.updates_skipped
        for name in updates[0] if updates else ():
            figures[f"iteration/{name}"] = sum(update[name] for update in updates) / len(updates)
        self.log_metrics(figures, self.current_epoch)
