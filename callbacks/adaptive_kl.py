"""The adaptive KL coefficient (Ziegler et al. 2019), after every update."""

import math
from collections.abc import Mapping
from typing import Any

from rence_lightning.callbacks.hooks import Callback
from rence_lightning.errors import UserError
from rence_lightning.objectives.trust_region import adapt_kl_coef
from rence_lightning.sampling.groups import Group
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.trainer import Trainer


class AdaptiveKL(Callback):
    """Raises `kl_coef` when the KL of an update is above the target, and lowers it when the KL is below.

    lambda *= 1 + clip(KL / target - 1, -0.2, 0.2) * n / horizon, where n is the number of responses in the update. The
    first update of an iteration always measures a KL of 0, because the policy still is pi_old.

    Args:
        target_kl: Target of the KL divergence in nats, in the trust region's reduction (per token by default); > 0.
        horizon: Number of responses over which the coefficient can change by a factor of about e^0.2; > 0.
        enabled: Whether to adapt the coefficient; false keeps the trust region's `kl_coef` fixed.
    """

    def __init__(self, target_kl: float = 0.01, horizon: int = 25600, enabled: bool = True) -> None:
        if target_kl <= 0 or horizon <= 0:
            raise UserError(f"adaptive_kl: target_kl ({target_kl}) and horizon ({horizon}) must be > 0")
        self.target_kl = target_kl
        self.horizon = horizon
        self.enabled = enabled

    def setup(self, trainer: Trainer, module: PolicyModule, stage: str) -> None:
        if self.enabled and module.trust_region.delta is not None:
            raise UserError(
                f"adaptive_kl: the trust region has a delta ({module.trust_region.delta}), whose penalty is adapted to "
                "the KL divergence already; set adaptive_kl.enabled to false, or model.trust_region.delta to null"
            )

    def on_train_batch_end(
        self, trainer: Trainer, module: PolicyModule, outputs: Mapping[str, Any], batch: list[Group], batch_idx: int
    ) -> dict[str, float]:
        region = module.trust_region
        if self.enabled and math.isfinite(outputs["grad_norm"]):  # an update that was skipped measured nothing
            region.kl_coef = adapt_kl_coef(
                region.kl_coef, outputs["kl"], self.target_kl, self.horizon, outputs["responses"]
            )
        return {"kl_coef": region.kl_coef}
