"""`python tests/objectives/vectors.py` computes the results in vectors.json, losses and gradients of every objective.

They are those of `PolicyModule.loss`, which the trainer minimises. The file holds the groups of each update and the
settings of each case, and a new case is added there without results. docs/method.md explains the fields.
"""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rence_lightning import objectives
from rence_lightning.objectives import Objective, ResponseTensors, Totals
from rence_lightning.objectives.trust_region import ReferencePenalty, TrustRegion
from rence_lightning.training import PolicyModule

FILE = Path(__file__).with_name("vectors.json")


class Nothing(Objective):
    """No objective, for a case of a penalty alone."""

    def loss(self, responses: ResponseTensors, totals: Totals) -> Tensor:
        return 0 * responses.log_probs.sum()


def tensors_of(group: dict[str, Any]) -> ResponseTensors:
    """A group of the file as an objective sees it."""

    def padded(rows: list[list[float]]) -> Tensor:
        return pad_sequence([torch.tensor(row, dtype=torch.float64) for row in rows], batch_first=True).unsqueeze(0)

    policies = ("log_probs", "old_log_probs", "engine_log_probs", "reference_log_probs")
    new, old, engine, reference = (padded(group[name]) for name in policies)
    mask = padded([[1.0] * len(row) for row in group["log_probs"]]).bool()
    rewards, correct = padded([group["rewards"]])[0], torch.tensor([group["correct"]])
    return ResponseTensors(new.requires_grad_(), old, mask, rewards, correct, (group["seed"],), engine, reference)


def result_of(module: PolicyModule, parts: list[ResponseTensors]) -> dict[str, Any]:
    """The loss of an update of these groups, and its gradient by the log-probability of each token."""
    counts = [(1, part.rewards.numel(), int(part.mask.sum()), int(part.positive.sum())) for part in parts]
    totals, region = Totals(*map(sum, zip(*counts, strict=True))), module.trust_region
    kl = sum(region.kl(part, totals).item() for part in parts)
    loss, figures = module.loss(parts, replace(totals, kl=kl))
    gradients = torch.autograd.grad(loss, [part.log_probs for part in parts])
    if region.delta is not None:  # the module's loss has the linearisation of the hinge, whose gradient is the same
        loss = figures["objective"] + region.kl_coef / 2 * max(kl - region.delta, 0.0) ** 2
    rows = [zip(values[0], part.mask[0], strict=True) for values, part in zip(gradients, parts, strict=True)]
    return {"loss": loss.item(), "gradient": [[row[mask].tolist() for row, mask in group] for group in rows]}


def complete(case: dict[str, Any], updates: dict[str, Any]) -> None:
    """Adds the defaults of its settings to a case, and its results in all updates."""
    name, penalty = case["objective"], case["reference"]
    objective = getattr(objectives, name)(**case["settings"]) if name else Nothing()
    reference = ReferencePenalty(**penalty) if penalty else None
    module = PolicyModule("", objective, TrustRegion(**case["trust_region"]), reference=reference)  # loads no policy
    case |= {"settings": objective.arguments(), "trust_region": asdict(module.trust_region)}
    case["results"] = {update: result_of(module, [*map(tensors_of, groups)]) for update, groups in updates.items()}


if __name__ == "__main__":
    content = json.loads(FILE.read_text(encoding="utf-8"))
    for case in content["cases"].values():
        complete(case, content["updates"])
    text = json.dumps(content, indent=1)
    text = re.sub(r"\[\s+([^][{}\"]*?)\s+\]", lambda found: f"[{' '.join(found[1].split())}]", text)  # a list on a line
    FILE.write_text(text + "\n", encoding="utf-8")
