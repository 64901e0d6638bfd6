"""The ways in which a policy with float32 masters is computed."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from rence_lightning.policy import Policy, load_policy
from rence_lightning.policy.packed_row import PackedRow
from rence_lightning.training.rounding import round_stochastically

Reload = Callable[[str], Policy]


@dataclass(frozen=True)
class View:
    """A way to compute a policy.

    Attributes:
        name: Name of the view.
        dtype: Data type of the matrix products.
        copy: Whether all weights are cast, adapters being merged, and the model computes in `dtype`, as an engine and
            FullyShardStrategy do. Otherwise the model runs under autocast, which casts the inputs of matrix products
            alone: embeddings, norms and the sums between layers stay in float32.
        thresholds: Key of the random thresholds of stochastic rounding; empty for rounding to the nearest.
        of_old: Name of the view of pi_old, where it is another one; empty otherwise.
    """

    name: str
    dtype: torch.dtype
    copy: bool = False
    thresholds: str = ""
    of_old: str = ""

    def cast(self, name: str, weight: Tensor) -> Tensor:
        """A float32 weight as it is computed with."""
        if not self.thresholds:
            return weight.to(self.dtype)
        rounded = torch.empty(weight.numel())
        round_stochastically(weight.flatten(), self.dtype, f"{self.thresholds}/{name}", 0, rounded)
        return rounded.view_as(weight).to(self.dtype)


TRUE = View("float32", torch.float32)
VIEWS = {
    view.name: view
    for view in (
        TRUE,
        View("bf16-mixed", torch.bfloat16),
        View("16-mixed", torch.float16),
        View("bfloat16 copy", torch.bfloat16, copy=True),
        View("float16 copy", torch.float16, copy=True),
        View("bfloat16 stochastic", torch.bfloat16, copy=True, thresholds="first"),
        View("bfloat16 drawn anew", torch.bfloat16, copy=True, thresholds="second", of_old="bfloat16 stochastic"),
        View("float16 stochastic", torch.float16, copy=True, thresholds="first"),
    )
}


class Viewer:
    """Computes log-probabilities of one row of texts in any view.

    Args:
        name: Name of the policy, as in `model.policy`, from which copies are built.
        row: Texts.
    """

    def __init__(self, name: str, row: PackedRow) -> None:
        self._name = name
        self._row = row
        self._copies: dict[torch.dtype, Policy] = {}

    @torch.no_grad()
    def log_probs(self, policy: Policy, view: View) -> Tensor:
        """Log-probabilities of the tokens of the texts, `(tokens,)`, in float32."""
        if view.copy:
            return self._filled(policy, view)(self._row).log_probs
        autocast = torch.autocast("cpu", view.dtype) if view.dtype != torch.float32 else nullcontext()
        with autocast:
            log_probs: Tensor = policy(self._row).log_probs
        return log_probs

    def _filled(self, policy: Policy, view: View) -> Policy:
        if view.dtype not in self._copies:
            name = {torch.bfloat16: "bfloat16", torch.float16: "float16"}[view.dtype]
            self._copies[view.dtype] = load_policy(self._name, dtype=name)  # type: ignore[arg-type]
        copy = self._copies[view.dtype]
        weights = dict(copy.model.named_parameters(remove_duplicate=False))
        for name, weight in policy.weights(torch.device("cpu"), torch.float32):
            weights[name].copy_(view.cast(name, weight))
        return copy
