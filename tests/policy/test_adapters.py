"""Low-rank adapters: what a policy with them computes, and what is trained, against the merged policy."""

import importlib.util
from typing import Any

import pytest
import torch
from adapted_models import adapted_policy, merged_by_hand, randomise, trained
from tiny_models import ARCHITECTURES, in_float64, tiny_model, tiny_policy
from torch import Tensor

from rence_lightning.errors import UserError
from rence_lightning.policy import LoRA, PackedRow, Policy, Segment, load_policy, weights_digest
from rence_lightning.policy.adapters import add_adapters
from rence_lightning.policy.load import activation_checkpointing

CPU = torch.device("cpu")
ROW = PackedRow([Segment([5, 6, 7], [[8, 9, 3, 1], [4, 1]]), Segment([4, 3], [[20], [30, 31, 32, 33, 1]])], CPU)
EVERY = [*ARCHITECTURES, "gpt2"]
"""GPT-2's layers hold the transpose of their weights."""


def loss_of(policy: Policy) -> Tensor:
    """Any smooth function of the log-probabilities."""
    log_probs = policy(ROW, 0.8).log_probs
    return (log_probs * torch.linspace(-1, 2, len(log_probs), dtype=log_probs.dtype)).sum()


@pytest.mark.parametrize("architecture", EVERY)
def test_gradients_are_those_of_the_merged_policy_by_the_chain_rule(architecture: str) -> None:
    """W' = W + s B A, so dA = s B^T dW' and dB = s dW' A^T, in float64."""
    policy = in_float64(adapted_policy(architecture))
    plain = in_float64(merged_by_hand(policy, architecture))
    loss, reference = loss_of(policy), loss_of(plain)
    torch.testing.assert_close(loss, reference, rtol=1e-12, atol=1e-12)
    loss.backward()
    reference.backward()
    parameters, scale = dict(policy.model.named_parameters()), 6 / 3
    compared = 0
    for name, weight in plain.model.named_parameters():
        path = name.removesuffix(".weight")
        if f"{path}.lora_A.default.weight" not in parameters:
            continue
        a, b = (parameters[f"{path}.lora_{each}.default.weight"] for each in "AB")
        gradient = weight.grad.t() if architecture == "gpt2" else weight.grad
        torch.testing.assert_close(a.grad, scale * b.t() @ gradient, rtol=1e-9, atol=1e-12, msg=f"A of {path}")
        torch.testing.assert_close(b.grad, scale * gradient @ a.t(), rtol=1e-9, atol=1e-12, msg=f"B of {path}")
        assert a.grad.abs().max() > 1e-6 < b.grad.abs().max(), "the comparison needs gradients"
        compared += 1
    assert compared == len(trained(policy)) / 2 == (8 if architecture == "gpt2" else 14)
    assert all(parameter.grad is None for parameter in parameters.values() if not parameter.requires_grad)


@pytest.mark.parametrize("architecture", EVERY)
def test_engines_get_the_merged_weights_and_the_base_is_untouched(architecture: str) -> None:
    policy = adapted_policy(architecture)
    before = {name: weight.clone() for name, weight in policy.state_dict().items()}
    expected = dict(merged_by_hand(policy, architecture).model.named_parameters(remove_duplicate=False))
    weights = dict(policy.weights(CPU, torch.float32))
    assert weights.keys() == expected.keys(), "an engine knows the names of the plain model alone"
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-7, msg=name)
    assert all(torch.equal(weight, before[name]) for name, weight in policy.state_dict().items())


def test_weights_are_merged_in_float32_whatever_surrounds_it() -> None:
    """A change below the spacing of a bfloat16 weight must reach an engine that computes in float32, and autocast, in
    which a run samples, must not round the product of the adapters."""
    policy = adapted_policy(dtype=torch.bfloat16)
    randomise(policy, size=0.002)
    exact = {name: weight.double() for name, weight in policy.weights(CPU, torch.float32)}
    path = "model.layers.0.mlp.down_proj"
    parameters = dict(policy.model.named_parameters())
    base = parameters[f"{path}.base_layer.weight"].double()
    a, b = (parameters[f"{path}.lora_{each}.default.weight"].double() for each in "AB")
    change = 2 * b @ a
    assert change.abs().max() < base.abs().max() / 2**9, "the change must be smaller than what bfloat16 resolves"
    torch.testing.assert_close(exact[f"{path}.weight"] - base, change, rtol=0, atol=1e-8)
    with torch.autocast("cpu", torch.bfloat16):
        again = dict(policy.weights(CPU, torch.float32))
    assert all(torch.equal(weight, exact[name].float()) for name, weight in again.items())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_first_policy_is_the_given_one_to_the_bit(architecture: str) -> None:
    policy, plain = tiny_policy(architecture), tiny_policy(architecture)
    expected = plain(ROW).log_probs
    add_adapters(policy.model, LoRA(r=3), "")
    assert torch.equal(policy(ROW).log_probs, expected)
    assert policy.frozen_digest() == weights_digest(plain), "the base below adapters must have the plain model's digest"


def test_initial_adapters_depend_on_their_seed_alone() -> None:
    def initial(seed: int, around: int) -> tuple[dict[str, Tensor], Tensor]:
        model = tiny_model()
        torch.manual_seed(around)
        add_adapters(model, LoRA(r=3, seed=seed), "")
        return {n: p for n, p in model.named_parameters() if p.requires_grad}, torch.rand(1)

    (one, drawn), (same, _), (other, _) = initial(0, around=1), initial(0, around=2), initial(7, around=1)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert all(torch.equal(one[name], other[name]) == ("lora_B" in name) for name in one)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), drawn), "the run's own random numbers must not depend on adapters"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient_checkpointing_gives_the_same_gradient_though_the_embeddings_are_frozen(dtype: torch.dtype) -> None:
    gradients = []
    for checkpointing in (False, True):
        policy = adapted_policy(dtype=dtype).train()
        if checkpointing:
            activation_checkpointing(policy.model)
        loss_of(policy).backward()
        gradients.append({name: parameter.grad for name, parameter in trained(policy).items()})
    for name, gradient in gradients[0].items():
        assert gradient is not None and gradient.dtype == torch.float32 and gradient.isfinite().all()
        assert gradients[1][name] is not None and torch.equal(gradients[1][name], gradient), name
    assert max(gradient.abs().max() for gradient in gradients[0].values()) > 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("empty", [False, True])
def test_the_base_has_the_dtype_asked_for_and_adapters_are_in_float32(dtype: Any, empty: bool) -> None:
    policy = load_policy("embedded:arithmetic", dtype=dtype, lora=LoRA(r=3), empty=empty)
    for name, parameter in policy.named_parameters():
        assert parameter.is_meta == empty
        assert parameter.requires_grad == (".lora_" in name)
        assert parameter.dtype == (torch.float32 if parameter.requires_grad else getattr(torch, dtype)), name
    whole = load_policy("embedded:arithmetic", dtype=dtype, lora=LoRA(r=3))
    shapes = [[(name, p.shape) for name, p in each.named_parameters()] for each in (policy, whole)]
    assert shapes[0] == shapes[1]


def test_named_layers_alone_are_adapted() -> None:
    policy = adapted_policy(lora=LoRA(r=3, target_modules=["q_proj", "down_proj"]))
    layers = {name.split(".lora_")[0].rpartition(".")[2] for name in trained(policy)}
    assert layers == {"q_proj", "down_proj"} and len(trained(policy)) == 2 * 2 * 2
    (one,) = {
        name.split(".lora_")[0].rpartition(".")[2]
        for name in trained(adapted_policy(lora=LoRA(target_modules="v_proj")))
    }
    assert one == "v_proj", "a single name needs no list"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": 0}, r"model.lora.r is 0; .* >= 1"),
        ({"alpha": 0}, r"model.lora.alpha is 0; .* >= 1"),
        ({"target_modules": []}, r"model.lora.target_modules is empty; .*all-linear"),
        (
            {"target_modules": ["q_porj"]},
            r"target_modules: .* no linear layer q_porj to adapt \(did you mean q_proj\?\); .*v_proj",
        ),
        (
            {"target_modules": ["q_proj", "norm"]},
            r"target_modules: the policy has no linear layer norm to adapt; choose",
        ),
        ({"target_modules": "embed_tokens"}, r"target_modules: the policy has no linear layer embed_tokens"),
        ({"target_modules": ["lm_head"]}, r"target_modules: lm_head is the output projection, which cannot be adapted"),
    ],
)
def test_an_impossible_setting_is_one_line_with_its_key(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        load_policy("embedded:arithmetic", lora=LoRA(**settings))
    assert "\n" not in str(error.value)


def test_without_peft_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "peft" else find(name))
    with pytest.raises(UserError, match=r"model.lora needs peft; .*\[lora\]"):
        load_policy("embedded:arithmetic", lora=LoRA())
