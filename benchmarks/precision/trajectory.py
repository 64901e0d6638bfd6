"""The training of float32 masters, which are saved at marks and can be returned to."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rence_lightning.policy import LoRA, PackedRow, Policy, load_policy
from rence_lightning.policy.weights import BASE

TrainedIn = Literal["float32", "bf16-mixed", "16-mixed"]
AUTOCAST: dict[TrainedIn, torch.dtype] = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
MAX_NORM = 1.0


@dataclass(frozen=True)
class Trajectory:
    """A way that masters take through their updates.

    Attributes:
        learning_rate: Learning rate of AdamW.
        seed: Seed of the order of the training texts, and of the adapters.
        lora: Whether adapters are trained (r = 32, alpha 32, all linear layers) in place of the weights.
        trained_in: Precision of the forward and backward passes.
    """

    learning_rate: float
    seed: int
    lora: bool = False
    trained_in: TrainedIn = "float32"

    @property
    def name(self) -> str:
        kind = "lora" if self.lora else "full"
        where = "" if self.trained_in == "float32" else f"-{self.trained_in}"
        return f"{kind}-{self.learning_rate:g}-seed-{self.seed}{where}"


def rounded_policy(name: str, lora: LoRA | None = None) -> Policy:
    """A policy in float32 whose weights lie on the grid of bfloat16, as those of released checkpoints do."""
    policy = load_policy(name, lora=lora)
    with torch.no_grad():
        for parameter_name, parameter in policy.named_parameters():
            if ".lora_" not in parameter_name:
                parameter.copy_(parameter.bfloat16())
    return policy


class Masters:
    """The policy of a trajectory, moved to any of its marks.

    Args:
        trajectory: Trajectory.
        policy: Name of the policy, as in `model.policy`.
        folder: Folder of the masters of each mark, and of the optimizer's state of the last one.
        rows: Function that returns the rows of the training, from the first on.

    Attributes:
        policy: Policy, at the mark that it was last moved to.
        trained: Weights that are trained, by their names in the policy.
    """

    def __init__(
        self, trajectory: Trajectory, policy: str, folder: Path, rows: Callable[[Policy], Iterator[PackedRow]]
    ) -> None:
        self.trajectory = trajectory
        self.policy = rounded_policy(policy, LoRA(seed=trajectory.seed) if trajectory.lora else None)
        self._folder = folder
        self._rows = rows
        self.trained = {name: each for name, each in self.policy.named_parameters() if each.requires_grad}
        self._optimizer = torch.optim.AdamW(self.trained.values(), trajectory.learning_rate, weight_decay=0.01)
        folder.mkdir(parents=True, exist_ok=True)
        if not (self._masters(0)).exists():
            self._save(0)

    def move_to(self, mark: int) -> None:
        """Moves the policy to a mark; one that was not reached before is trained to from the last one."""
        if not self._masters(mark).exists():
            self._train(mark)
        self._load(mark)

    def at(self, mark: int) -> dict[str, Tensor]:
        """The trained weights at a mark that was reached."""
        return load_file(self._masters(mark))

    def plain(self) -> Iterator[tuple[str, Tensor]]:
        """Weights of the plain model in float32, adapters merged, each once."""
        names = {name.replace(BASE, ".") for name, _ in self.policy.model.named_parameters()}  # without tied weights
        weights = self.policy.weights(torch.device("cpu"), torch.float32)
        return ((name, weight) for name, weight in weights if name in names)

    def _masters(self, mark: int) -> Path:
        return self._folder / f"masters-{mark}.safetensors"

    @torch.no_grad()
    def _load(self, mark: int) -> None:
        for name, weight in self.at(mark).items():
            self.trained[name].copy_(weight)

    def _save(self, mark: int) -> None:
        state = {"mark": mark, "optimizer": self._optimizer.state_dict()}
        drafts = self._folder / "masters.tmp", self._folder / "state.tmp"
        save_file({name: each.detach().contiguous() for name, each in self.trained.items()}, drafts[0])
        torch.save(state, drafts[1])
        drafts[1].replace(self._folder / "state.pt")
        drafts[0].replace(self._masters(mark))  # last: masters without a state would let the training start anew

    def _train(self, mark: int) -> None:
        state = torch.load(self._folder / "state.pt", weights_only=True)
        start: int = state["mark"]
        if not self._masters(start).exists():
            raise RuntimeError(f"{self._folder} was interrupted while it was saved; remove it and start again")
        self._load(start)
        self._optimizer.load_state_dict(state["optimizer"])
        dtype = AUTOCAST.get(self.trajectory.trained_in)
        scaler = torch.amp.GradScaler("cpu", enabled=dtype == torch.float16)
        for row in islice(self._rows(self.policy), start, mark):
            with torch.autocast("cpu", dtype) if dtype is not None else nullcontext():
                loss = -self.policy(row).log_probs.mean()
            scaler.scale(loss).backward()
            scaler.unscale_(self._optimizer)
            torch.nn.utils.clip_grad_norm_(self.trained.values(), MAX_NORM)
            scaler.step(self._optimizer)
            scaler.update()
            self._optimizer.zero_grad()
        self._save(mark)
