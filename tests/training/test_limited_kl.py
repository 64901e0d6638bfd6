"""The squared hinge on the KL of an update: against autograd in float64, however the update is cut, and its passes."""

from pathlib import Path

import pytest
import torch
from arithmetic_run import fresh_start, make_data, make_module, make_trainer
from test_packed_update import SINGLE, WHOLE, passes_of
from test_packed_update import make_groups as tiny_groups
from test_packed_update import make_module as tiny_module
from test_update_gradient import gradient_of, make_groups, naive
from tiny_models import in_float64

from rence_lightning.callbacks import AdaptiveKL
from rence_lightning.errors import UserError
from rence_lightning.objectives.trust_region import TrustRegion
from rence_lightning.training.trainer import Trainer
from rence_lightning.training.update import Update

COEF = 5.0


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """A trainer whose policy is in float64; tests set the limit."""
    fresh_start()
    trainer = make_trainer(tmp_path_factory.mktemp("limited") / "run", precision="64-true", max_iterations=0)
    trainer.fit(make_module(trust_region=TrustRegion(kl_coef=COEF)), make_data())
    in_float64(trainer.lightning_module.policy)
    return trainer


@pytest.mark.parametrize("share_of_kl", [0.0, 0.5, 2.0])
def test_the_gradient_is_that_of_the_squared_hinge(share_of_kl: float, trainer: Trainer) -> None:
    """With a limit of 0, of half of the KL of the update, and of twice the KL, within which there is no penalty."""
    module = trainer.lightning_module
    groups = make_groups(module)
    with torch.no_grad():
        kl = naive(module, groups)[1].item()
    module.trust_region.delta = limit = share_of_kl * kl
    contrast, exact = naive(module, groups)
    (contrast + COEF / 2 * (exact - limit).clamp(min=0) ** 2).backward()
    expected = gradient_of(module)
    for budget in (10_000, 100, 40, 1):
        metrics = Update(groups, budget).backward(module, trainer.fabric)
        assert metrics["kl"] == pytest.approx(kl, rel=1e-6)
        linearised = metrics["objective"] + COEF * max(kl - limit, 0) * kl
        assert metrics["loss"] == pytest.approx(linearised, rel=1e-6)
        torch.testing.assert_close(gradient_of(module), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("budget", [SINGLE, WHOLE])
def test_all_groups_are_scored_first_but_at_pi_old(budget: int) -> None:
    """Once as many tokens without a gradient as with one; none in the first update, where KL is 0."""
    module = tiny_module("qwen3-tied")
    module._compared = True
    module.trust_region.delta = 0.01
    for known, first in ((True, False), (False, True)):
        groups = tiny_groups(noise=0.3 if known else 0)
        share = Update(groups, budget, couples=False, at_old_policy=first)
        trained, scored = passes_of(module, share)
        assert scored == (trained if known else 0)
        assert (module.trust_region.weight(share.totals.kl) > 0) == known


def test_a_limit_and_an_adaptive_coefficient_exclude_each_other(tmp_path: Path) -> None:
    region = TrustRegion(kl_coef=COEF, delta=0.01)
    fresh_start()
    with pytest.raises(UserError, match=r"the trust region has a delta \(0.01\).*set adaptive_kl.enabled to false"):
        make_trainer(tmp_path / "run").fit(make_module(trust_region=region), make_data())
    trainer = make_trainer(tmp_path / "fixed", max_iterations=1)
    trainer.callbacks = [each for each in trainer.callbacks if not isinstance(each, AdaptiveKL)]
    trainer.callbacks.append(AdaptiveKL(enabled=False))
    trainer.fit(make_module(trust_region=region), make_data())
    assert trainer.global_step == 2
