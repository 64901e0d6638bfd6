"""Everything around the loop of a run: set-up, run directory, checkpoints, and resuming from a checkpoint."""

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import yaml
from lightning.fabric import Fabric
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rence_lightning.distributed import gather, on_rank_zero
from rence_lightning.errors import UserError, call_plugin, invalid_return
from rence_lightning.policy import Policy
from rence_lightning.run.checkpoint import load_checkpoint, load_policy_weights, save_checkpoint
from rence_lightning.run.directory import Run, SavedAt
from rence_lightning.run.lineage import find_checkpoint, inherit, resume, unfinished_evaluation
from rence_lightning.run.lock import Lock
from rence_lightning.run.loggers import run_loggers
from rence_lightning.run.settings import Change, changes
from rence_lightning.run.written_config import config_in, write_problems
from rence_lightning.sampling.batch import IterationBatch
from rence_lightning.sampling.datamodule import RolloutDataModule
from rence_lightning.sampling.pending import pending_state, restored
from rence_lightning.training.launch import continued
from rence_lightning.training.lightning_facade import LightningFacade
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.optimizer_step import OptimizerStep
from rence_lightning.training.precision import COMPUTE_TYPES, Rounding, check_trained
from rence_lightning.training.rounding import StochasticRounding, check_engine
from rence_lightning.training.strategy import FullyShardStrategy


class ResumableTrainer(LightningFacade):
    """Opens a run, new or resumed, and saves its checkpoints.

    Attributes:
        run: Identity and directory of the run.
        resumed_from: Checkpoint that the run started from, None for a new run.
        resumed_in_place: Whether the run continues in the directory of that checkpoint.
        branch_reason: Reason why a resumed run does not continue in place, as shown to the user.
        changed_settings: Settings that differ from those of the checkpoint.
        config_yaml: Complete configuration of the run; None for a run that was started without one.
        problem_files: Rows of problems by the name of the file that holds them in `problems/` of the run directory.
        already_finished: Whether a resumed run has all of its iterations and files, so that no file is touched.
        opened: Whether the run directory has been created or opened.
        step: Counts and takes the optimizer's steps.
        batch: Batch of the iteration whose updates are being taken; None between iterations.
    """

    lightning_module: PolicyModule
    datamodule: RolloutDataModule
    max_iterations: int
    rounding: Rounding
    run: Run

    def __init__(
        self,
        fabric: Fabric,
        callbacks: list[Callback],
        wanted_run_dir: Path,
        loggers: list[Logger],
        step: OptimizerStep,
    ) -> None:
        super().__init__(fabric, callbacks)
        self.step = step
        self.wanted_run_dir = wanted_run_dir
        self.run_dir = wanted_run_dir
        self.resumed_from: Path | None = None
        self.resumed_in_place = False
        self.branch_reason = ""
        self.changed_settings: list[Change] = []
        self.config_yaml: str | None = None
        self.problem_files: Mapping[str, Sequence[Mapping[str, Any]]] = {}
        self.batch: IterationBatch | None = None
        self._scheduler: LRScheduler | None = None
        self._rounding: StochasticRounding | None = None
        self._extra_loggers = loggers
        self._lock: Lock | None = None
        self.opened = False
        self.already_finished = False

    # ---- set-up -----------------------------------------------------------------------------------------------------

    def _set_up(
        self, module: PolicyModule, datamodule: RolloutDataModule, function: TrainerFn, ckpt_path: str | None
    ) -> None:
        self.lightning_module, self.datamodule = module, datamodule
        module.trainer = datamodule.trainer = self  # type: ignore[assignment]
        checkpoint = None
        if self.training:
            ckpt_path = on_rank_zero(lambda: continued(ckpt_path, self.wanted_run_dir))
        if ckpt_path is not None:
            checkpoint = on_rank_zero(lambda: find_checkpoint(ckpt_path, self.wanted_run_dir))
        self.resumed_from = checkpoint
        if checkpoint is not None and self.training:
            self._compare_settings(checkpoint)
        self._load_policy(module)
        datamodule.connect(module.policy)
        # The order matters: the strategy shards the parameters here, and the optimizer must be given the shards.
        module.policy = self.fabric.setup_module(module.policy)  # type: ignore[assignment]
        if (reference := module.reference_policy) is not None:
            sharded = isinstance(self.fabric.strategy, FullyShardStrategy)
            # Replicas of a policy that is not trained exchange nothing: they need no wrapper.
            placed = self.fabric.setup_module(reference) if sharded else self.fabric.to_device(reference)
            module.reference_policy = placed  # type: ignore[assignment]
        self.call("setup", str(function.value))  # callbacks check their settings; nothing is written yet
        datamodule.setup(str(function.value))  # afterwards, because the callbacks name the problems to hold out
        if function == TrainerFn.FITTING:
            check_trained(self.precision, module.policy.parameters())
            optimizer, self._scheduler = module.configure_optimizers()
            self.optimizers = [self.fabric.setup_optimizers(optimizer)]
            if checkpoint is not None:
                configured = _hyperparameters(optimizer)
                self._load_run_state(load_checkpoint(self.fabric, checkpoint, module.policy, self.optimizers[0]))
                _apply(configured, optimizer, self._scheduler)
        elif checkpoint is not None:
            self.current_epoch = load_policy_weights(self.fabric, checkpoint, module.policy)["iteration"]
        if self.rounding == "stochastic":
            policy, dtype = cast(Policy, module.policy.module), COMPUTE_TYPES[self.precision]
            check_engine(datamodule.engine, dtype)
            iteration = self.current_epoch + (self.batch is not None)
            self._rounding = StochasticRounding(policy, dtype, datamodule.seed, iteration)
        self.already_finished = on_rank_zero(lambda: self._is_finished(checkpoint))
        if not self.already_finished:
            self._open_run_directory(checkpoint)
        elif checkpoint is not None:
            self.run_dir = checkpoint.parents[1]

    def _is_finished(self, checkpoint: Path | None) -> bool:
        owner = Run.open(checkpoint.parents[1]) if checkpoint is not None and self.training else None
        done = self.batch is None and self.current_epoch >= self.max_iterations
        return done and owner is not None and owner.finished

    def finish(self) -> None:
        """Writes down that the run has all of its files."""
        if self.is_global_zero:
            self.run = self.run.ended()

    def close(self) -> None:
        if self._rounding is not None:
            self._rounding.end()
        if self._lock is not None:
            self._lock.release()

    def _compare_settings(self, checkpoint: Path) -> None:
        saved = checkpoint / "config.yaml"
        if self.config_yaml is not None and saved.exists():
            own = config_in(checkpoint.parents[1], self.config_yaml)
            self.changed_settings = changes(saved.read_text(), own)

    def _load_policy(self, module: PolicyModule) -> None:
        """Loads the policy: on rank 0 alone if the strategy distributes the shards from there, else on every rank."""
        sharded = isinstance(self.fabric.strategy, FullyShardStrategy)
        if self.is_global_zero or not sharded:
            module.configure_model()
        gather(None)  # if rank 0 cannot load it, the other ranks end here as well
        empty = sharded and not self.is_global_zero
        module.configure_model(empty)  # does nothing if the policy is loaded
        if self.training:
            module.configure_reference(empty)

    # ---- the run directory ------------------------------------------------------------------------------------------

    def _open_run_directory(self, checkpoint: Path | None) -> None:
        self.run, self.resumed_in_place, self.branch_reason = on_rank_zero(lambda: self._open_run(checkpoint))
        self.run_dir = self.run.directory
        if self.config_yaml is not None:
            self.config_yaml = config_in(self.run_dir, self.config_yaml)
        if self.is_global_zero:
            if self.training:
                account = {**self.datamodule.cleaned.record(), "too_long": self.datamodule.dropped_too_long}
                (self.run_dir / "training_problems.json").write_text(json.dumps(account, indent=1) + "\n")
            changed = [str(change) for change in self.changed_settings]
            write_problems(self.run_dir, self.problem_files)
            self.run = self.run.with_session(checkpoint, self._write_config(checkpoint), changed)
        self.loggers = run_loggers(self.run_dir, self.global_step, self._extra_loggers, self.is_global_zero)
        if self.is_global_zero and self.config_yaml is not None:
            for logger in self._extra_loggers:
                logger.log_hyperparams(yaml.safe_load(self.config_yaml))
        gather(None)  # a rank that could not open the run ends all of them, and nothing is saved
        self.opened = True

    def _open_run(self, checkpoint: Path | None) -> tuple[Run, bool, str]:
        """The run to write to, locked; whether it is the checkpoint's own run, and the reason if it is not."""
        if not self.training:
            wanted = self.wanted_run_dir.with_name(f"{self.wanted_run_dir.name}-validate")
            unfinished = unfinished_evaluation(wanted, self.config_yaml) if self.config_yaml is not None else None
            return self._locked(unfinished or Run.create(wanted, "validate")), False, ""
        if checkpoint is None:
            return self._locked(Run.create(self.wanted_run_dir, "fit")), False, ""
        if (run := resume(checkpoint, self.wanted_run_dir).run) is not None:
            self._locked(run)
        resumption = resume(checkpoint, self.wanted_run_dir)  # again, because nobody can save into the run any more
        if resumption.run is not None:
            return resumption.run, True, ""
        self.close()
        branch = self._locked(Run.create(self.wanted_run_dir, "fit", resumption.parent))
        if resumption.parent and resumption.parent["directory"]:
            inherit(Path(resumption.parent["directory"]), branch.directory)
        return branch, False, resumption.reason

    def _locked(self, run: Run) -> Run:
        self._lock = Lock(run.directory)
        return run

    def _write_config(self, checkpoint: Path | None) -> str | None:
        """Writes the configuration, a changed one to a separate file; returns the name of the file."""
        if self.config_yaml is None:
            return None
        first = self.run_dir / "config.yaml"
        if not first.exists() or first.read_text() == self.config_yaml or checkpoint is None:
            first.write_text(self.config_yaml)
            return first.name
        name, number = f"config-from-{checkpoint.name}", 1
        file = self.run_dir / f"{name}.yaml"
        while file.exists() and file.read_text() != self.config_yaml:
            number += 1
            file = self.run_dir / f"{name}-{number}.yaml"
        file.write_text(self.config_yaml)
        return file.name

    # ---- saving and restoring ---------------------------------------------------------------------------------------

    @property
    def moment(self) -> tuple[int, int]:
        """Number of iterations done, and number of updates done in the iteration after them."""
        return self.current_epoch, len(self.batch.updates_done) if self.batch is not None else 0

    @property
    def saved_at(self) -> SavedAt:
        """The current moment, as a checkpoint records it."""
        return SavedAt(self.run.id, *self.moment, self.global_step)

    def masters(self) -> AbstractContextManager[None]:
        """Context in which the policy's parameters are those that the optimizer changes and checkpoints hold.

        Outside it, with `rounding: stochastic`, they are a rounded copy.
        """
        return nullcontext() if self._rounding is None else self._rounding.masters()

    def can_be_saved(self) -> bool:
        """Whether all ranks are at the same moment, and none within an optimizer's step; every rank must call it."""
        possible = self.training and self.opened and not self.step.under_way
        moments = gather((self.moment, self.global_step) if possible else None)
        return None not in moments and len(set(moments)) == 1

    def save_checkpoint(self) -> Path:
        """Saves everything that the next step depends on; every rank must call it. Returns the checkpoint's folder."""
        folder, policy = self.run.folder_of(self.saved_at), self.lightning_module.policy
        state = self._run_state()
        with self.masters():
            save_checkpoint(self.fabric, folder, policy, self.optimizers[0], state, self.saved_at, self.config_yaml)
        return folder

    def _run_state(self) -> dict[str, Any]:
        run: dict[str, Any] = {
            "global_step": self.global_step,
            "iteration": self.current_epoch,
            **self.step.state_dict(),
            "data": self.datamodule.state_dict(),
            "pending": pending_state(self.batch) if self.batch is not None and self.moment[1] else None,
            "lr_scheduler": self._scheduler.state_dict() if self._scheduler is not None else None,
            "callbacks": {callback.state_key: state for callback in self.callbacks if (state := _state_of(callback))},
        }
        self.lightning_module.on_save_checkpoint(run)
        return run

    def _load_run_state(self, run: dict[str, Any]) -> None:
        self.global_step = run["global_step"]
        self.current_epoch = run["iteration"]
        self.step.load_state_dict(run)
        configured = self.lightning_module.trust_region.kl_coef
        self.lightning_module.on_load_checkpoint(run)
        changed = {change.key for change in self.changed_settings}
        if changed & {"model.trust_region.kl_coef", "model.trust_region.limit"}:
            self.lightning_module.trust_region.kl_coef = configured
        self.datamodule.load_state_dict(run["data"])
        if run["pending"] is not None:
            if changed & {"trainer.precision", "trainer.rounding"}:
                raise UserError(
                    "trainer: precision or rounding has changed, but the checkpoint is in the middle of an iteration, "
                    "whose log-probabilities of pi_old were computed in the old one; set it back, or resume a "
                    "checkpoint at the end of an iteration"
                )
            self.batch = restored(run["pending"], self.datamodule.prompts)
        if self._scheduler is not None and run["lr_scheduler"] is not None:
            self._scheduler.load_state_dict(run["lr_scheduler"])
        for callback in self.callbacks:
            if callback.state_key in run["callbacks"]:
                callback.load_state_dict(run["callbacks"][callback.state_key])


def _hyperparameters(optimizer: Optimizer) -> list[dict[str, Any]]:
    return [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]


def _apply(configured: list[dict[str, Any]], optimizer: Optimizer, scheduler: LRScheduler | None) -> None:
    """Gives a restored optimizer the configured hyperparameters; a schedule continues from the new learning rate."""
    for index, (group, settings) in enumerate(zip(optimizer.param_groups, configured, strict=True)):
        if scheduler is not None:
            before, now = group.get("initial_lr", group["lr"]), settings["initial_lr"]
            lr = group["lr"] if before == now else group["lr"] * now / before if before else now
            settings = {**settings, "lr": lr}
            if hasattr(scheduler, "base_lrs"):
                scheduler.base_lrs[index] = now
        group.update(settings)


PLAIN = (bool, int, float, str, bytes, type(None), Tensor)
"""What a checkpoint may hold, besides lists, tuples, sets and dictionaries of it: it is read without running code."""


def _state_of(callback: Callback) -> dict[str, Any]:
    """A callback's state; one that could not be read back is refused before it is written.

    Raises:
        PartError: The state raises, or holds something else than plain values.
    """
    state: dict[str, Any] = call_plugin(callback, "state_dict()", callback.state_dict)
    if (strange := _not_plain(state)) is not None:
        raise invalid_return(
            callback, "state_dict()", strange, "numbers, texts, tensors, and lists or dictionaries of them"
        )
    return state


def _not_plain(value: Any) -> Any:
    """Something in a state that `weights_only` would not read, None if there is nothing."""
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set):
        return next((strange for item in value if (strange := _not_plain(item)) is not None), None)
    return None if type(value) in PLAIN or isinstance(value, Tensor) else value
