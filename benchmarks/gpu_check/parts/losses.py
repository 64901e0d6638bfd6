"""The part `losses`: loss and gradient of one update on a device, against float32 on the CPU."""

from array import array
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.gpu_check.findings import Findings
from benchmarks.gpu_check.settings import Settings
from rence_lightning.callbacks.old_policy import keep_as_old
from rence_lightning.prompts import Problem, Prompt
from rence_lightning.rewards import Score
from rence_lightning.rollouts import Rollout
from rence_lightning.sampling.groups import Group
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.update import Update as OneUpdate

BUDGET = 2048
"""Token budget of a forward pass; the groups need several passes of this size."""

LOSS_SCALE = 2.0**12
"""Factor of the loss in float16."""

TOLERANCES = {"float32": (1e-4, 1e-3), "bfloat16": (5e-2, 0.2), "float16": (1e-2, 0.05)}
"""Absolute tolerance of the loss, and relative tolerance of the gradient, by data type of autocast."""


@dataclass(frozen=True)
class Update:
    """The result of one computation of the update: the loss, and the gradient as one vector in float64 on the CPU."""

    loss: float
    gradient: Tensor


@dataclass(frozen=True)
class Comparison:
    """The difference between an update and the reference.

    Attributes:
        loss: Absolute difference of the losses.
        gradient: Norm of the difference of the gradients, relative to the norm of the reference's gradient.
        cosine: Cosine of the angle between the gradients.
    """

    loss: float
    gradient: float
    cosine: float


def compare(update: Update, reference: Update) -> Comparison:
    difference = (update.gradient - reference.gradient).norm() / reference.gradient.norm()
    cosine = torch.nn.functional.cosine_similarity(update.gradient, reference.gradient, dim=0)
    return Comparison(abs(update.loss - reference.loss), float(difference), float(cosine))


def make_groups(module: PolicyModule, count: int = 6, size: int = 8) -> list[Group]:
    """Groups of random tokens, in turn correct and wrong, whose pi_old differs a little from the policy."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = module.policy.model.config.vocab_size

    def tokens(low: int, high: int) -> "array[int]":
        length = int(torch.randint(low, high, (), generator=generator))
        return array("i", torch.randint(3, vocabulary, (length,), generator=generator).tolist())

    groups = []
    for index in range(count):
        rollouts = [Rollout(ids := tokens(20, 120), array("f", [0.0] * len(ids)), "stop") for _ in range(size)]
        scores = [Score(1.0, True, None) if (index + i) % 3 == 0 else Score(0.1, False, None) for i in range(size)]
        prompt = Prompt(index, Problem(str(index), "", ""), tuple(tokens(5, 40)))
        groups.append(Group(prompt, rollouts, [""] * size, scores, 1.0, positive=tuple(s.correct for s in scores)))
    at_old = OneUpdate(groups, BUDGET)
    at_old.score(module, at_old.micro_batches)
    keep_as_old(at_old)
    for group in groups:
        noise = [0.02 * torch.randn(length, generator=generator) for length in group.lengths]
        group.old_log_probs = [old + each for old, each in zip(group.old_log_probs, noise, strict=True)]
    return groups


def update(
    module: PolicyModule, groups: list[Group], device: torch.device, dtype: torch.dtype = torch.float32
) -> Update:
    """Loss and gradient of the update, computed in micro-batches as in the trainer.

    Args:
        module: Policy and objective.
        groups: Groups of the update, with pi_old.
        device: Device of the computation.
        dtype: Data type of autocast; float32 for none.
    """
    module.policy.to(device)
    module.policy.zero_grad()
    share = OneUpdate(groups, BUDGET)
    scale = LOSS_SCALE if dtype == torch.float16 else 1.0  # small gradients would be zero in float16
    with torch.autocast(device.type, dtype) if dtype != torch.float32 else nullcontext():
        share.prepare(module)
        for pieces in share.micro_batches:
            (scale * share.loss(module, pieces)).backward()
    loss = float(share.figures(module)["loss"])
    gradients = [parameter.grad for parameter in module.policy.parameters()]
    return Update(loss, torch.cat([g.double().cpu().flatten() / scale for g in gradients if g is not None]))


def check(settings: Settings, findings: Findings) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    module = PolicyModule("embedded:arithmetic")
    module.configure_model()
    groups = make_groups(module)
    reference = update(module, groups, torch.device("cpu"))
    for name, (loss, gradient) in TOLERANCES.items():
        try:
            found = compare(update(module, groups, torch.device(settings.device), getattr(torch, name)), reference)
        except RuntimeError as error:
            findings.expect(False, f"{name}: {type(error).__name__}: {error}")
            continue
        findings.at_most(f"{name}, loss, absolute difference", found.loss, loss)
        findings.at_most(f"{name}, gradient, relative difference", found.gradient, gradient)
        findings.note(f"{name}, gradient, cosine", found.cosine)
