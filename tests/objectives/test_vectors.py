"""The test vectors are complete, and their results are those of the package and of the equations in NumPy.

The losses below are written from the papers; gradients are their central finite differences.
"""

import json
import re
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import CONF, config_of
from vectors import FILE, complete, tensors_of

from rence_lightning.objectives import Objective

CONTENT = json.loads(FILE.read_text(encoding="utf-8"))
CASES, UPDATES = CONTENT["cases"], CONTENT["updates"]
KL = {"k1": lambda x: -x, "k2": lambda x: x**2 / 2, "k3": lambda x: np.exp(x) - 1 - x}
lse, softplus = np.logaddexp.reduce, partial(np.logaddexp, 0)  # the latter is -log sigmoid(-x)


def mean(values: Any) -> Any:  # 0 where P or N is empty
    return np.mean(values) if np.size(values) else 0.0


def pacs(s: Any, right: Any, balanced: bool) -> Any:
    psi, share = s - (s.sum() - s) / (len(s) - 1), right.mean()
    weights = np.where(right, 0.5 / share, 0.5 / (1 - share)) if balanced and 0 < share < 1 else 1
    return mean(weights * softplus(np.where(right, -psi, psi)))


def disco(p: Any, n: Any, tau: float | None) -> Any:
    return ((mean(n) if tau is None else tau * np.log(mean(np.exp(n / tau)))) - mean(p)) if len(p) * len(n) else 0.0


CONTRASTS: dict[str, Callable[..., Any]] = {  # of the scores s, p of P and n of N, soft labels w, group and settings
    "MultiLabelNCE": lambda s, p, n, w, g, c: mean([lse([y, *n]) - y for y in p]),
    "SoftmaxContrast": lambda s, p, n, w, g, c: mean([lse(s) - y for y in p]),
    "AllPairs": lambda s, p, n, w, g, c: mean([softplus(y_prime - y) for y in p for y_prime in n]),
    "RandomPair": lambda s, p, n, w, g, c: softplus(s[g["pair"][1]] - s[g["pair"][0]]) if g["pair"] else 0.0,
    "InfoNCA": lambda s, p, n, w, g, c: w @ (lse(s) - s),
    "NCA": lambda s, p, n, w, g, c: w @ softplus(-s) + mean(softplus(s)),
    "PACS": lambda s, p, n, w, g, c: pacs(s, g["positive"], c["balanced"]),
    "DisCO": lambda s, p, n, w, g, c: disco(p, n, c["tau"]),
}


def contrast(kind: str, c: Any, g: Any, new: Any, lengths: Any) -> Any:
    """The loss of a group."""
    ratio, r, right = new - g["old_log_probs"], g["rewards"], g["positive"]
    if kind == "DisCO":
        s = ((new if c["score"] == "log_likelihood" else np.exp(ratio)) * g["mask"] / lengths).sum(-1)
    else:
        s = c["beta"] * ratio.sum(-1)
        s = s + c["alpha"] * {"adaptive": r.max() - r, "constant": ~right, "none": 0}[c["margin"]]
    w = r / c.get("reward_temperature", 1)
    return CONTRASTS[kind](s, s[right], s[~right], np.exp(w - lse(w)), g, c)


def token_losses(kind: str, c: Any, g: Any, new: Any, lengths: Any) -> Any:
    """The losses of the tokens. NFT's maximum stays that of the file, because it passes on the gradient of v alone."""
    ratio, right, q = new - g["old_log_probs"], g["positive"], g["positive"].mean()
    if kind == "NFT":
        v, fixed = ((1 - q * np.exp(each - g["old_log_probs"])) / (1 - q or 1) for each in (new, g["log_probs"]))
        omega = {"failures": 1 - q, "odds": np.sqrt((1 - q) / (q or 1))}[c["prompt_weight"]] * (0 < q < 1)
        return -omega * np.where(right[:, None], ratio, np.log(np.maximum(fixed, c["epsilon"]) + v - fixed))
    r = right * 1.0 if kind == "MaxRL" else g["rewards"]
    if c.get("overlong_buffer"):
        over = lengths[:, 0] - (c["max_response_tokens"] - c["overlong_buffer"])
        r = r - np.clip(over / c["overlong_buffer"], 0, 1)
    A = ((r - r.mean()) / {"MaxRL": q or 1, "DrGRPO": 1}.get(kind, r.std(ddof=1) + 1e-6))[:, None]
    w = np.exp(ratio.sum(-1, keepdims=True) / lengths if kind == "GSPO" else ratio)
    return -np.minimum(w * A, np.clip(w, 1 - c["clip_low"], 1 + c["clip_high"]) * A)


def loss_of(case: Any, groups: list[Any], now: list[Any]) -> Any:
    """The loss of an update at the log-probabilities `now`."""
    kind, c, region = case["objective"], case["settings"], case["trust_region"]
    responses, tokens = sum(len(g["rewards"]) for g in groups), sum(g["mask"].sum() for g in groups)
    loss = kl = 0.0
    for g, new in zip(groups, now, strict=True):
        lengths, drift = g["mask"].sum(-1, keepdims=True), g["old_log_probs"] - g["engine_log_probs"]
        drift = drift.sum(-1, keepdims=True) if kind in CONTRASTS else drift
        weights = np.minimum(np.exp(drift), c["tis_cap"]) if c.get("tis_cap") else 1
        if kind in CONTRASTS:  # the weights act on the gradient alone, and not on the value at the file's log_probs
            weighted = g["log_probs"] + weights * (new - g["log_probs"])
            loss += contrast(kind, c, g, weighted, lengths) / len(groups)
        elif kind:
            count = {"GRPO": responses * lengths, "GSPO": responses * lengths}.get(kind, tokens)
            count = responses * c["max_response_tokens"] if kind == "DrGRPO" else count
            loss += (g["mask"] * weights * token_losses(kind, c, g, new, lengths) / count).sum()
        kl += KL[region["estimator"]](new - g["old_log_probs"]).sum()
        if case["reference"]:
            of_tokens = KL["k3"](g["reference_log_probs"] - new) / lengths
            loss += case["reference"]["kl_coef"] * of_tokens.sum() / responses
    kl /= tokens if region["reduction"] == "token" else responses
    return loss + region["kl_coef"] * (kl if region["delta"] is None else max(kl - region["delta"], 0) ** 2 / 2)


def arrays(group: Any) -> dict[str, Any]:
    tensors = {name: value[0].detach().numpy() for name, value in vars(tensors_of(group)).items() if name != "seeds"}
    return {**tensors, "pair": group["pair"]}


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("name", CASES)
def test_results_are_those_of_the_equations_in_numpy(name: str, update: str) -> None:
    case, groups, result = CASES[name], [*map(arrays, UPDATES[update])], CASES[name]["results"][update]
    now = [g["log_probs"].copy() for g in groups]
    assert result["loss"] == pytest.approx(loss_of(case, groups, now), rel=1e-12, abs=1e-12)
    for values, g, gradient in zip(now, groups, result["gradient"], strict=True):
        assert [len(row) for row in gradient] == g["mask"].sum(-1).tolist()
        for place, expected in zip(map(tuple, np.argwhere(g["mask"])), np.concatenate(gradient), strict=True):
            around = []
            for step in (1e-5, -1e-5):
                values[place] = g["log_probs"][place] + step
                around.append(loss_of(case, groups, now))
            values[place] = g["log_probs"][place]
            assert (around[0] - around[1]) / 2e-5 == pytest.approx(expected, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_results_are_those_of_the_package_as_it_is(name: str) -> None:
    """`python tests/objectives/vectors.py` writes them again."""
    number, again = r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?", deepcopy(CASES[name])
    complete(again, UPDATES)
    texts = [json.dumps(case) for case in (again, CASES[name])]
    assert re.sub(number, "", texts[0]) == re.sub(number, "", texts[1])
    numbers = [[float(each) for each in re.findall(number, text)] for text in texts]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-12, abs=1e-12)


def test_every_objective_has_an_equation_and_results() -> None:
    def concrete(cls: Any) -> set[str]:
        own = {cls.__name__} if cls.__module__.startswith("rence_lightning.") and not cls.__abstractmethods__ else set()
        return own.union(*map(concrete, cls.__subclasses__()))

    assert concrete(Objective) == CONTENT["equations"].keys() == {case["objective"] for case in CASES.values()} - {None}


@pytest.mark.parametrize("file", sorted(path.relative_to(CONF) for path in CONF.glob("[pf]a*/*.yaml")), ids=str)
def test_every_configuration_of_a_method_has_results(file: Path) -> None:
    """With its settings, but for lengths in tokens, which are small in the vectors."""
    model = config_of("fit", f"--config={CONF / 'rence.yaml'}", f"--config={CONF / file}")["model"]
    name, settings = model["objective"]["class_path"].rpartition(".")[2], model["objective"]["init_args"].items()
    settings = {(key, value) for key, value in settings if key not in ("max_response_tokens", "overlong_buffer")}
    assert any(
        (name, model["trust_region"], model["reference"]) == (c["objective"], c["trust_region"], c["reference"])
        for c in CASES.values()
        if settings <= c["settings"].items()
    )


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("name", ["GRPO", "DAPO", "GSPO", "Dr. GRPO", "MaxRL"])
def test_clipping_acts_on_some_tokens_of_correct_and_of_wrong_responses(name: str, update: str) -> None:
    groups = zip(UPDATES[update], CASES[name]["results"][update]["gradient"], strict=True)
    both = [zip(group["correct"], rows, strict=True) for group, rows in groups if len(set(group["correct"])) == 2]
    assert len({(right, value == 0) for group in both for right, row in group for value in row}) == 4
