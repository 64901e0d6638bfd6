"""The policy's log-probabilities, against the model's full logits and a library's distributions."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers
from tiny_models import ARCHITECTURES, VOCABULARY, in_float64, tiny_policy
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rence_lightning.errors import UserError
from rence_lightning.policy import (
    PackedRow,
    Policy,
    Segment,
    load_policy,
    output_projection,
    weights_digest,
)
from rence_lightning.policy.load import activation_checkpointing

SEQUENCES = [([5, 6, 7], [8, 9, 3, 1]), ([4, 3], [20]), ([9, 10, 11, 12, 13], [30, 31, 32, 33, 34, 35, 36, 1])]
CPU = torch.device("cpu")
ROW = PackedRow([Segment(prompt, [response]) for prompt, response in SEQUENCES], CPU)
LENGTHS = [len(response) for _, response in SEQUENCES]


def naive_log_probs(policy: Policy, temperature: float = 1.0) -> list[Tensor]:
    """Each sequence alone, all logits at once."""
    rows = []
    for prompt, response in SEQUENCES:
        logits = policy.model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
        rows.append((logits / temperature).log_softmax(-1)[range(len(response)), response])
    return rows


def gradient(policy: Policy) -> Tensor:
    flat = torch.cat([parameter.grad.flatten() for parameter in policy.parameters()])  # type: ignore[union-attr]
    policy.zero_grad()
    return flat


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_are_those_of_the_full_logits(architecture: str, temperature: float, packed: bool) -> None:
    policy = tiny_policy(architecture)
    scores = policy(ROW, temperature, packed=packed)
    expected = torch.cat(naive_log_probs(policy, temperature))
    torch.testing.assert_close(scores.log_probs, expected, rtol=0, atol=1e-5)


def test_entropy_is_that_of_the_categorical_distribution() -> None:
    policy = tiny_policy()
    entropy = policy(ROW, 0.7, entropy=True).entropy
    assert entropy is not None and not entropy.requires_grad
    for values, (prompt, response) in zip(entropy.split(LENGTHS), SEQUENCES, strict=True):
        logits = policy.model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
        expected = torch.distributions.Categorical(logits=logits / 0.7).entropy()
        torch.testing.assert_close(values, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("architecture", ["qwen3-tied", "llama-untied", "gemma2-tied", "granite"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("chunk", "kept"), [(1, 0), (5, 0), (5, 1000), (1000, 0)])
def test_gradients_are_those_of_the_full_logits(
    chunk: int, kept: int, checkpointing: bool, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the chunk of the vocabulary projection, whether logits are kept, and with activations recomputed; also
    where the model soft-caps or scales its logits."""
    policy = in_float64(tiny_policy(architecture))
    weights = torch.randn(sum(LENGTHS), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (torch.cat(naive_log_probs(policy, 0.7)) * weights).sum().backward()
    reference = gradient(policy)
    whole = policy(ROW, 0.7, entropy=True)
    monkeypatch.setattr(output_projection, "LOGITS_PER_CHUNK", chunk * VOCABULARY)
    monkeypatch.setattr(output_projection, "LOGITS_KEPT", kept * VOCABULARY)
    if checkpointing:
        activation_checkpointing(policy.model)
    policy.train()
    for entropy in (False, True):
        scores = policy(ROW, 0.7, entropy)
        (scores.log_probs * weights).sum().backward()
        torch.testing.assert_close(gradient(policy), reference, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(scores.entropy, whole.entropy)
    assert policy(ROW).entropy is None, "entropy costs a softmax and is computed only when asked for"


def test_activation_checkpointing_recomputes_the_layers() -> None:
    policy, calls = tiny_policy(), 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    policy.model.model.layers[0].mlp.register_forward_pre_hook(count)
    for checkpointing, passes in ((False, 1), (True, 2)):
        if checkpointing:
            activation_checkpointing(policy.model)
        policy.train()
        calls = 0
        policy(ROW).log_probs.sum().backward()
        assert calls == passes, f"checkpointing {checkpointing}: {calls} forward passes of a layer, expected {passes}"


def test_the_output_projection_of_a_bfloat16_policy_computes_in_float32() -> None:
    """A logit in bfloat16 is off by up to 0.06, and a softmax in bfloat16 by up to 0.03 a token."""
    policy = tiny_policy().bfloat16()
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            scores = policy(ROW, entropy=True)
            assert scores.log_probs.dtype == scores.entropy.dtype == torch.float32
            hidden = policy.model.base_model(
                ROW.input_ids.unsqueeze(0), position_ids=ROW.position_ids.unsqueeze(0), packed_row=ROW
            ).last_hidden_state[0]
        logits = hidden[ROW.states].float() @ policy.model.lm_head.weight.float().T
        expected = logits.log_softmax(-1).gather(-1, ROW.targets.unsqueeze(-1)).squeeze(-1)
        torch.testing.assert_close(scores.log_probs, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sharded", [False, True], ids=["float32-weight", "float16-weight"])
def test_logits_beyond_65504_do_not_overflow(sharded: bool) -> None:
    """FSDP2 gathers the weight in float16; autocast alone leaves it in float32."""
    generator = torch.Generator().manual_seed(0)
    states = (1000 * torch.randn(6, 32, generator=generator)).half().requires_grad_()
    head = torch.nn.Linear(32, 50, bias=False)
    with torch.no_grad():
        head.weight.copy_(20 * torch.randn(50, 32, generator=generator))
    if sharded:
        head.half()
    targets = torch.randint(50, (6,), generator=generator)
    logits = states.double() @ head.weight.double().t()
    assert logits.abs().max() > 65504 and not torch.isfinite(logits.half()).all()
    with torch.autocast("cpu", dtype=torch.float16):
        log_probs, entropy = output_projection.token_scores(
            head, states, targets, output_projection.LogitTransform(), True
        )
    expected = logits.log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    assert log_probs.dtype == torch.float32
    torch.testing.assert_close(log_probs.double(), expected, rtol=1e-5, atol=0.1)
    log_probs.sum().backward()
    assert entropy is not None and torch.isfinite(entropy).all()
    assert states.grad is not None and torch.isfinite(states.grad).all()


def test_logits_are_never_held_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tensor of tokens times vocabulary is saved for the backward pass, nor made by the projection."""
    policy = tiny_policy("llama-untied")
    largest = 0

    def watched(*arguments: Any) -> Tensor:
        nonlocal largest
        logits = torch.nn.functional.linear(*arguments)
        largest = max(largest, logits.numel())
        return logits

    monkeypatch.setattr(output_projection, "linear", watched)
    monkeypatch.setattr(output_projection, "LOGITS_PER_CHUNK", 2 * VOCABULARY)
    monkeypatch.setattr(output_projection, "LOGITS_KEPT", 0)
    saved: list[torch.Size] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.shape) or t, lambda t: t):
        loss = policy(ROW).log_probs.sum()
    assert saved and not [shape for shape in saved if shape[-1:] == (VOCABULARY,)], "logits wait for the backward pass"
    loss.backward()
    assert largest == 2 * VOCABULARY


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_on_a_gpu_16_bit_numbers_are_multiplied_as_they_are(
    dtype: torch.dtype, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With float32 results in the forward pass, and TF32 in the backward pass. CPUs have neither: a spy multiplies."""
    generator, products, precisions = torch.Generator().manual_seed(0), [], []
    states = torch.randn(6, 32, generator=generator).to(dtype).requires_grad_()
    head = torch.nn.Linear(32, 50, bias=bias).to(dtype)
    targets = torch.randint(50, (6,), generator=generator)
    expected = output_projection.token_scores(head, states, targets, output_projection.LogitTransform(), False)
    expected.log_probs.sum().backward()
    gradients = [each.grad.clone() for each in (states, *head.parameters())]
    states.grad = head.weight.grad = None
    mm = torch.mm

    def spy(a: Tensor, b: Tensor, out_dtype: torch.dtype | None = None, **options: Any) -> Tensor:
        products.append((a.dtype, b.dtype, out_dtype))
        precisions.append(torch.get_float32_matmul_precision())
        return mm(a.float(), b.float(), **options)

    monkeypatch.setattr(output_projection, "_multiplies_in_half", lambda states, weight: True)
    monkeypatch.setattr(torch, "mm", spy)
    found = output_projection.token_scores(head, states, targets, output_projection.LogitTransform(), False)
    assert products == [(dtype, dtype, torch.float32)], "the 16-bit numbers are cast, or their products rounded"
    found.log_probs.sum().backward()
    assert precisions[1:] == ["high"] * (len(products) - 1) and torch.get_float32_matmul_precision() == "highest"
    torch.testing.assert_close(found.log_probs, expected.log_probs, rtol=0, atol=1e-5)
    torch.testing.assert_close(states.grad, gradients[0])
    torch.testing.assert_close(head.weight.grad, gradients[1])


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "gemma2-tied", "granite", "gpt2"])
def test_a_model_is_accepted_with_the_transform_of_its_logits_and_refused_without(architecture: str) -> None:
    """However small its logits are: those of a fresh Gemma 2 are hardly changed by soft-capping."""
    for dtype in (torch.float32, torch.bfloat16):
        policy = tiny_policy(architecture).to(dtype)
        policy.check_model()
        assert not policy.model.training
        if policy.logit_transform != output_projection.LogitTransform():
            policy.logit_transform = output_projection.LogitTransform()
            with pytest.raises(UserError, match=r"ForCausalLM makes its logits .* not supported"):
                policy.check_model()


def test_an_error_of_the_model_s_own_code_is_one_line() -> None:
    """Such as that of sizes in config.json that do not fit one another."""
    policy = tiny_policy()
    policy.model.config.num_attention_heads = 3
    policy.model.model.layers[0].self_attn.num_key_value_groups = 3
    with pytest.raises(
        UserError, match=r"policy: the forward pass of Qwen3ForCausalLM raises RuntimeError: The size .*"
    ):
        policy.check_model()


def test_a_model_with_noise_in_training_is_refused() -> None:
    policy = tiny_policy()
    policy.model.model.norm.register_forward_hook(lambda *given: torch.dropout(given[2], 0.1, given[0].training))
    with pytest.raises(UserError, match="two forward passes of Qwen3ForCausalLM in training mode differ by"):
        policy.check_model()


@pytest.mark.parametrize(
    ("kind", "settings", "transform"),
    [
        ("LlamaConfig", {}, (1.0, None)),
        ("GraniteConfig", {"logits_scaling": 8.0}, (0.125, None)),
        ("HyperCLOVAXConfig", {"logits_scaling": 8.0}, (8.0, None)),
        ("CohereConfig", {"logit_scale": 0.0625}, (0.0625, None)),
        ("FalconH1Config", {"lm_head_multiplier": 0.5}, (0.5, None)),
        ("Gemma2Config", {"final_logit_softcapping": 30.0}, (1.0, 30.0)),
        ("RecurrentGemmaConfig", {"logits_soft_cap": 30.0}, (1.0, 30.0)),
    ],
)
def test_the_transform_of_logits_is_read_from_the_configuration(
    kind: str, settings: dict[str, float], transform: tuple[float, float | None]
) -> None:
    assert output_projection.LogitTransform.of(getattr(transformers, kind)(**settings)) == transform


def on_gpu_only(module: torch.nn.Module, query: Tensor, *_: object, **__: object) -> None:
    """Stand-in for FlashAttention, which accepts no tensor on a CPU."""
    raise RuntimeError(f"attention got a tensor on {query.device}")


@pytest.fixture
def gpu_attention() -> Iterator[str]:
    ALL_ATTENTION_FUNCTIONS.register("gpu_only", on_gpu_only)
    yield "gpu_only"
    del ALL_ATTENTION_FUNCTIONS._global_mapping["gpu_only"]


def test_a_policy_with_an_attention_for_gpus_is_loaded_on_a_cpu(gpu_attention: str) -> None:
    policy = load_policy("embedded:arithmetic", attn_implementation=gpu_attention)
    assert policy.model.config._attn_implementation == gpu_attention
    with pytest.raises(RuntimeError, match="attention got a tensor on cpu"):
        policy(PackedRow([Segment([5, 6], [[7, 8]])], CPU))


def test_a_tied_output_projection_is_gathered_once_for_a_gpu_and_under_both_names_for_a_cpu() -> None:
    """The largest weight of a small policy; vLLM's CPU engine alone has a second copy of it. No GPU is at hand: `meta`
    is another device than a CPU as well."""
    tied, untied = tiny_policy("qwen3-tied"), tiny_policy("qwen3-untied")
    for policy, device, both in [(tied, CPU, True), (tied, torch.device("meta"), False), (untied, CPU, True)]:
        names = [name for name, _ in policy.weights(device, torch.bfloat16)]
        assert names.count("model.embed_tokens.weight") == 1 and len(set(names)) == len(names)
        assert ("lm_head.weight" in names) == both
        assert len(names) == len(list(policy.model.named_parameters())) + (both and policy is tied)


def test_any_changed_bit_changes_the_digest_of_the_weights() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        policy = tiny_policy().to(dtype)
        digest = weights_digest(policy)
        assert weights_digest(tiny_policy().to(dtype)) == digest
        for parameter in list(policy.parameters())[:3]:
            bits = parameter.detach().view(-1)[-1:].view(torch.int32 if dtype == torch.float32 else torch.int16)
            bits ^= 1
            assert weights_digest(policy) != digest
            bits ^= 1
        assert weights_digest(policy) == digest
