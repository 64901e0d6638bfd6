"""Stochastic rounding: an unbiased copy of the masters on the grid of the computation's type, the same everywhere."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from arithmetic_run import assert_same, fresh_start, make_data, make_module, make_trainer, state_of
from safetensors.torch import load_file
from torch import Tensor
from two_processes import in_two_processes, whole

from rence_lightning.callbacks import Callback, Checkpoint, ExportPolicy
from rence_lightning.errors import UserError
from rence_lightning.policy import LoRA, load_policy
from rence_lightning.rollouts import TransformersEngine
from rence_lightning.sampling.groups import Group
from rence_lightning.training.fabric import make_fabric
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.rounding import BLOCK, StochasticRounding, round_stochastically
from rence_lightning.training.strategy import FullyShardStrategy
from rence_lightning.training.trainer import Trainer
from rence_lightning.training.update import Update

TYPES = [torch.bfloat16, torch.float16]
PRECISIONS = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def rounded(weights: Tensor, dtype: torch.dtype, key: str = "key", start: int = 0) -> Tensor:
    out = torch.empty_like(weights)
    round_stochastically(weights, dtype, key, start, out)
    return out


def neighbours(weights: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The next number of a type below or at each weight, and the one above or at it, found by torch's own casts."""
    nearest = weights.to(dtype)
    infinity = torch.full_like(nearest, torch.inf)
    below = torch.where(nearest.float() <= weights, nearest, nearest.nextafter(-infinity))
    above = torch.where(nearest.float() >= weights, nearest, nearest.nextafter(infinity))
    return below.float(), above.float()


def assorted(dtype: torch.dtype) -> Tensor:
    """Numbers of all sizes down to far below the type's smallest, of both signs, and the type's own numbers."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.logspace(-12, 4, 400).repeat(5)
    numbers = sizes * torch.randn(len(sizes), generator=generator)
    special = [0.0, -0.0, 6e-8, -6e-8, 2.0**-14, 2.0**-14 - 2.0**-30, 2.0**-24, 2.0**-25, 3e-9, 1.0, 65504.0, -65503.9]
    return torch.cat([numbers, torch.tensor(special), numbers.to(dtype).float()])


@pytest.mark.parametrize("dtype", TYPES)
def test_only_the_two_neighbours_appear_and_their_mean_is_the_weight(dtype: torch.dtype) -> None:
    weights, draws = assorted(dtype), 4000
    below, above = neighbours(weights, dtype)
    total = torch.zeros(len(weights), dtype=torch.float64)
    for seed in range(draws):
        copy = rounded(weights, dtype, f"seed {seed}")
        assert ((copy == below) | (copy == above)).all()
        total += copy
    spacing = (above - below).double()
    share = ((weights.double() - below.double()) / spacing).nan_to_num(0.0)  # the probability of the upper one
    error = (total / draws - weights.double()).abs()
    exact = spacing == 0
    assert exact.sum() > len(weights) / 3 and not error[exact].any(), "numbers of the type itself must stay"
    standard = (spacing * (share * (1 - share) / draws).sqrt())[~exact]
    # Of 2000 numbers, one is expected beyond 3.3 standard errors. A number with a tiny share is seldom rounded up.
    assert (error[~exact] <= 5 * standard + 5 * spacing[~exact] / draws).all()
    wanted = (share * (1 - share)).sqrt()[~exact] > 0.2
    assert float((error[~exact] / standard)[wanted].square().mean()) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("dtype", TYPES)
def test_thresholds_do_not_depend_on_where_a_shard_begins(dtype: torch.dtype) -> None:
    weights = torch.randn(2 * BLOCK + 1000) * 0.02
    at_once = rounded(weights, dtype)
    for cut in (1, 999, BLOCK, BLOCK + 12345):
        parts = [rounded(weights[:cut], dtype), rounded(weights[cut:], dtype, start=cut)]
        assert torch.equal(torch.cat(parts), at_once)
    assert not torch.equal(rounded(weights, dtype, "other key"), at_once)


def test_thresholds_are_uniform_and_unrelated_from_one_weight_block_and_key_to_the_next() -> None:
    """A weight of 1 + x is rounded up in bfloat16 with probability 128 x."""
    weights = torch.full((2 * BLOCK,), 1 + 0.25 / 128)
    up = (rounded(weights, torch.bfloat16, "one") > 1).double()
    assert float(up.mean()) == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / len(up)) ** 0.5)
    other = (rounded(weights, torch.bfloat16, "two") > 1).double()
    pairs = {
        "neighbours": (up[1:], up[:-1]), "128 apart": (up[128:], up[:-128]), "4096 apart": (up[4096:], up[:-4096]),
        "blocks": (up[BLOCK:], up[:BLOCK]), "keys": (up, other),
    }  # fmt: skip
    for name, (one, two) in pairs.items():
        correlation = float(torch.corrcoef(torch.stack([one, two]))[0, 1])
        assert abs(correlation) < 4 / len(one) ** 0.5, name


def test_a_weight_that_moves_within_an_iteration_crosses_its_threshold_once() -> None:
    """So that two copies differ by what has moved, and not by two independent roundings."""
    weights = torch.full((100_000,), 0.02)
    copies = [rounded(weights + step * 1e-6, torch.bfloat16) for step in range(20)]
    changed = [float((one != other).double().mean()) for one, other in pairwise(copies)]
    assert all((other >= one).all() for one, other in pairwise(copies))
    assert sum(changed) == pytest.approx(19e-6 / 2**-13, rel=0.05)  # the spacing of bfloat16 at 0.02 is 2^-13


class Watch(Callback):
    """Records what the parameters hold and what the first update measures."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.copies: list[dict[str, Tensor]] = []
        self.after: list[dict[str, Tensor]] = []
        self.ratios: list[float] = []

    def on_updates_start(self, trainer: Trainer, module: PolicyModule, batch: Any) -> None:
        self.copies.append(self.check(module))

    def on_passes_end(self, trainer: Trainer, module: PolicyModule, update: Update) -> None:
        log_ratios = [part.sequence_log_ratio for part in update.responses()]
        self.ratios.append(max(float(each.abs().max()) for each in log_ratios))

    def on_train_batch_end(
        self, trainer: Trainer, module: PolicyModule, outputs: dict[str, Any], batch: list[Group], batch_idx: int
    ) -> None:
        self.after.append(self.check(module))

    @property
    def moved(self) -> bool:
        """Whether an update of the first iteration changed the copy."""
        return any(not torch.equal(copy[name], old) for copy in self.after[:2] for name, old in self.copies[0].items())

    def check(self, module: PolicyModule) -> dict[str, Tensor]:
        copy = {name: parameter.detach().clone() for name, parameter in module.policy.module.named_parameters()}
        for weight in copy.values():
            assert torch.equal(weight.to(self.dtype).float(), weight), "the casts of a forward pass are not exact"
        return copy


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_copy_computes_and_the_masters_are_saved(precision: str, tmp_path: Path) -> None:
    dtype = PRECISIONS[precision]
    fresh_start()
    watch = Watch(dtype)
    trainer = make_trainer(
        tmp_path / "run", [watch, Checkpoint(every=1), ExportPolicy()], precision=precision, rounding="stochastic"
    )
    optimizer = lambda parameters: torch.optim.AdamW(parameters, lr=1e-6, weight_decay=0.0)  # noqa: E731
    module = make_module(optimizer=optimizer)
    trainer.fit(module, make_data())
    assert len(watch.copies) == 2 and watch.moved
    assert watch.ratios[0] == watch.ratios[2] == 0.0, "at pi_old the ratio must be exactly 1"
    assert max(watch.ratios) > 0
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last" / "state", weights_only=True)["policy"]
    exported = load_file(tmp_path / "run" / "hf" / "model.safetensors")
    start = make_module()
    start.configure_model()
    initial = start.policy.state_dict()
    steps = 4 * 1.05e-6  # AdamW moves each weight by at most about its learning rate
    for name, parameter in module.policy.module.named_parameters():
        master = saved[name]
        assert torch.equal(exported[name.removeprefix("model.")], master)
        assert float((master - initial[name]).abs().max()) <= steps and not torch.equal(master, initial[name])
        copy, (below, above) = watch.after[-1][name], neighbours(master, dtype)
        assert ((copy == below) | (copy == above)).all(), "the copy is not one of the masters' neighbours"
        assert torch.equal(parameter, master), "after the run, the policy in memory is not that of the export"
    assert trainer.global_step == 4


def test_thresholds_are_drawn_for_each_iteration(tmp_path: Path) -> None:
    fresh_start()
    watch = Watch(torch.bfloat16)
    trainer = make_trainer(tmp_path / "run", [watch], precision="bf16-mixed", rounding="stochastic")
    module = make_module(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0))
    module.configure_model()
    with torch.no_grad():
        for parameter in module.policy.parameters():
            parameter.mul_(1.001)  # off the grid
    trainer.fit(module, make_data())
    first, second = watch.copies
    assert not watch.moved, "within an iteration masters that stay must give the same copy"
    differ = [float((first[name] != second[name]).double().mean()) for name in first]
    assert sum(differ) / len(differ) > 0.1


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_resumed_run_has_the_same_copies(precision: str, tmp_path: Path) -> None:
    def run(run_dir: Path, callbacks: list[Any], **settings: Any) -> Watch:
        fresh_start()
        watch = Watch(PRECISIONS[precision])
        callbacks = [watch, Checkpoint(every=10), *callbacks]
        trainer = make_trainer(run_dir, callbacks, precision=precision, rounding="stochastic", max_iterations=3)
        trainer.fit(make_module(), make_data(), **settings)
        return watch

    whole = run(tmp_path / "whole", [])
    with pytest.raises(RuntimeError, match="stopped"):
        run(tmp_path / "run", [Interrupts(3)])
    resumed = run(tmp_path / "run", [], ckpt_path="last")
    assert_same(state_of(tmp_path / "run"), state_of(tmp_path / "whole"))
    assert_same(resumed.after, whole.after[3:])
    assert resumed.ratios == whole.ratios[3:]


@pytest.mark.parametrize("change", [{"rounding": "nearest"}, {"precision": "16-mixed"}])
def test_an_iteration_is_not_finished_in_another_precision(change: dict[str, str], tmp_path: Path) -> None:
    def run(settings: dict[str, str], callbacks: list[Any], ckpt_path: str | None = None) -> None:
        fresh_start()
        trainer = make_trainer(tmp_path / "run", [Checkpoint(every=10), *callbacks], **settings)
        trainer.session.config_yaml = yaml.safe_dump({"trainer": settings})
        trainer.fit(make_module(), make_data(), ckpt_path=ckpt_path)

    settings = {"precision": "bf16-mixed", "rounding": "stochastic"}
    with pytest.raises(RuntimeError, match="stopped"):
        run(settings, [Interrupts(1)])
    with pytest.raises(UserError, match="in the middle of an iteration"):
        run({**settings, **change}, [], ckpt_path="last")


class Interrupts(Callback):
    """Fails after an update, so that a checkpoint is saved in the middle of an iteration."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_train_batch_end(
        self, trainer: Trainer, module: PolicyModule, outputs: dict[str, Any], batch: list[Group], batch_idx: int
    ) -> None:
        if trainer.global_step == self.after:
            raise RuntimeError("stopped")


@pytest.mark.parametrize(
    ("trainer", "module", "message"),
    [
        ({"precision": "32-true"}, {}, "does not round the weights"),
        ({"precision": "bf16-mixed"}, {"lora": LoRA()}, "adapters are trained"),
        ({"precision": "bf16-mixed"}, {"dtype": "bfloat16"}, "set model.dtype to float32"),
    ],
)
def test_where_it_makes_no_sense_it_is_refused(
    trainer: dict[str, Any], module: dict[str, Any], message: str, tmp_path: Path
) -> None:
    fresh_start()
    with pytest.raises(UserError, match=message):
        make_trainer(tmp_path / "run", rounding="stochastic", **trainer).fit(make_module(**module), make_data())
    assert not (tmp_path / "run").exists()


def test_an_engine_that_rounds_once_more_is_refused(tmp_path: Path) -> None:
    fresh_start()
    trainer = make_trainer(tmp_path / "run", precision="16-mixed", rounding="stochastic")
    with pytest.raises(UserError, match=r"weights are in bfloat16, .* set its data type to float16"):
        trainer.fit(make_module(), make_data(engine=TransformersEngine(copy_dtype="bfloat16")))


def test_weights_beyond_the_range_of_float16_are_refused() -> None:
    policy = load_policy("embedded:arithmetic")
    with torch.no_grad():
        policy.model.model.norm.weight[3] = 7e4
    with pytest.raises(UserError, match=r"norm.weight has weights beyond 65504"):
        StochasticRounding(policy, torch.float16, 0, 0)
    StochasticRounding(policy, torch.bfloat16, 0, 0)


def compare_with_one_process(rank: int) -> None:
    """Runs in each of two processes: shards, masters and the engine's copy are those of a whole policy."""
    for dtype, precision, offload in ((torch.bfloat16, "bf16-mixed", False), (torch.float16, "16-mixed", True)):
        reference = load_policy("embedded:arithmetic")
        masters = {name: parameter.detach().clone() for name, parameter in reference.named_parameters()}
        alone = StochasticRounding(reference, dtype, seed=3, iteration=0)
        fabric = make_fabric("cpu", 2, 1, FullyShardStrategy(cpu_offload=offload), precision)  # type: ignore[arg-type]
        fabric.launch()
        policy = load_policy("embedded:arithmetic", empty=rank > 0)
        fabric.setup_module(policy)
        sharded = StochasticRounding(policy, dtype, seed=3, iteration=0)
        for iteration in (0, 7):
            alone.draw(iteration)
            sharded.draw(iteration)
            for each in (alone, sharded):
                with each.masters(), torch.no_grad():
                    for parameter in each._policy.parameters():
                        parameter.add_(1e-4)
            copy = dict(reference.named_parameters())
            for name, parameter in policy.named_parameters():
                assert torch.equal(whole(parameter.detach()).cpu(), copy[name]), name
        engine = TransformersEngine(copy_dtype=str(dtype).removeprefix("torch."))  # type: ignore[arg-type]
        engine.sync(policy)
        assert engine._model is not None
        for name, weight in engine._model.named_parameters():
            assert weight.dtype == dtype and torch.equal(weight.float(), copy[f"model.{name}"]), name
        with sharded.masters():
            for name, parameter in policy.named_parameters():
                expected = masters[name] + 1e-4 + 1e-4
                assert torch.equal(whole(parameter.detach()).cpu(), expected), name


@pytest.mark.slow
def test_two_processes_have_the_copy_of_one_to_the_bit() -> None:
    in_two_processes(compare_with_one_process)
