"""The policy's log-probabilities, against the model's full logits and a library's distributions."""

from collections.abc import Iterator

import pytest
import torch
from tiny_models import ARCHITECTURES, PAD, VOCABULARY, tiny_model, tiny_policy
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rence_lightning.errors import UserError
from rence_lightning.policy import Policy, load_policy
from rence_lightning.policy import model as policy_model
from rence_lightning.policy.load import activation_checkpointing
from rence_lightning.training.batching import collate

SEQUENCES = [([5, 6, 7], [8, 9, 3, 1]), ([4, 3], [20]), ([9, 10, 11, 12, 13], [30, 31, 32, 33, 34, 35, 36, 1])]
CPU = torch.device("cpu")


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


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_are_those_of_the_full_logits(architecture: str, temperature: float) -> None:
    policy = tiny_policy(architecture)
    scores = policy(*collate(SEQUENCES, PAD, CPU), temperature)
    assert scores.log_probs.shape == (3, 8)
    for row, expected in zip(scores.log_probs, naive_log_probs(policy, temperature), strict=True):
        torch.testing.assert_close(row[: len(expected)], expected, rtol=0, atol=1e-5)
        assert row[len(expected) :].abs().sum() == 0, "padding must not contribute to a sum over tokens"


def test_entropy_is_that_of_the_categorical_distribution() -> None:
    policy = tiny_policy()
    entropy = policy(*collate(SEQUENCES, PAD, CPU), 0.7, entropy=True).entropy
    assert entropy is not None
    for row, (prompt, response) in zip(entropy, SEQUENCES, strict=True):
        logits = policy.model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
        expected = torch.distributions.Categorical(logits=logits / 0.7).entropy()
        torch.testing.assert_close(row[: len(response)], expected, rtol=0, atol=1e-5)
        assert row[len(response) :].abs().sum() == 0


def test_the_tokens_of_the_padding_do_not_matter() -> None:
    policy = tiny_policy()
    input_ids, mask = collate(SEQUENCES, PAD, CPU)
    lengths = torch.tensor([len(prompt) + len(response) for prompt, response in SEQUENCES])
    other = torch.where(torch.arange(input_ids.shape[1]) < lengths.unsqueeze(1), input_ids, 17)
    assert not torch.equal(other, input_ids)
    assert torch.equal(policy(other, mask).log_probs, policy(input_ids, mask).log_probs)


@pytest.mark.parametrize("architecture", ["qwen3-tied", "llama-untied"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("chunk", [1, 5, 1000])
def test_gradients_are_those_of_the_full_logits(
    chunk: int, checkpointing: bool, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the chunk of the vocabulary projection, and with activations recomputed."""
    policy = tiny_policy(architecture).double()
    weights = torch.randn(3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = naive_log_probs(policy)
    sum((weights[i, : len(row)] * row).sum() for i, row in enumerate(expected)).backward()  # type: ignore[union-attr]
    reference = gradient(policy)
    monkeypatch.setattr(policy_model, "LOGITS_PER_CHUNK", chunk * VOCABULARY)
    if checkpointing:
        activation_checkpointing(policy.model)
    policy.train()
    (policy(*collate(SEQUENCES, PAD, CPU)).log_probs * weights).sum().backward()
    torch.testing.assert_close(gradient(policy), reference, rtol=1e-9, atol=1e-12)


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
        policy(*collate(SEQUENCES, PAD, CPU)).log_probs.sum().backward()
        assert calls == passes, f"checkpointing {checkpointing}: {calls} forward passes of a layer, expected {passes}"


def test_chunks_do_not_show_in_log_probs_or_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, batch = tiny_policy().double(), collate(SEQUENCES, PAD, CPU)
    whole = policy(*batch, 0.7, entropy=True)
    for chunk in (1, 4):
        monkeypatch.setattr(policy_model, "LOGITS_PER_CHUNK", chunk * VOCABULARY)
        for part, expected in zip(policy(*batch, 0.7, entropy=True), whole, strict=True):
            torch.testing.assert_close(part, expected)
    assert policy(*batch).entropy is None, "entropy costs a softmax and is computed only when asked for"


def test_log_probs_of_a_bfloat16_policy_are_summed_in_float32() -> None:
    """A softmax in bfloat16 is off by up to 0.03 a token; only the rounding of the logits themselves may remain."""
    policy = tiny_policy().bfloat16()
    input_ids, mask = collate(SEQUENCES, PAD, CPU)
    scores = policy(input_ids, mask, entropy=True)
    assert scores.log_probs.dtype == scores.entropy.dtype == torch.float32
    logits = policy.model(input_ids).logits.float().log_softmax(-1)
    expected = logits[:, :-1].gather(-1, input_ids[:, 1:, None]).squeeze(-1)[mask[:, 1:]]
    places = torch.arange(8) < mask.sum(-1, keepdim=True)
    torch.testing.assert_close(scores.log_probs[places], expected, rtol=0, atol=1e-5)


def test_logits_are_never_held_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tensor of tokens times vocabulary is saved for the backward pass, nor made by the projection."""
    policy = tiny_policy("llama-untied")
    largest = 0
    forward = policy.model.lm_head.forward

    def watched(states: Tensor) -> Tensor:
        nonlocal largest
        logits: Tensor = forward(states)
        largest = max(largest, logits.numel())
        return logits

    monkeypatch.setattr(policy.model.lm_head, "forward", watched)
    monkeypatch.setattr(policy_model, "LOGITS_PER_CHUNK", 2 * VOCABULARY)
    saved: list[torch.Size] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.shape) or t, lambda t: t):
        loss = policy(*collate(SEQUENCES, PAD, CPU)).log_probs.sum()
    assert largest == 2 * VOCABULARY
    assert saved and not [shape for shape in saved if shape[-1:] == (VOCABULARY,)], "logits wait for the backward pass"
    loss.backward()


def test_a_model_that_transforms_its_logits_is_refused() -> None:
    """Gemma 2 soft-caps its logits after the projection; the policy's shortcut would miss that."""
    with pytest.raises(UserError, match="Gemma2ForCausalLM transforms its logits"):
        Policy(tiny_model("gemma2-tied"), tiny_policy().tokenizer).check_head()
    for architecture in ARCHITECTURES:
        tiny_policy(architecture).check_head()
        tiny_policy(architecture).bfloat16().check_head()


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
        policy(*collate([([5, 6], [7, 8])], PAD, CPU))


def test_transformed_logits_are_found_whatever_the_attention(gpu_attention: str) -> None:
    policy = Policy(tiny_model("gemma2-tied"), tiny_policy().tokenizer)
    policy.model.config._attn_implementation = gpu_attention
    with pytest.raises(UserError, match="Gemma2ForCausalLM transforms its logits"):
        policy.check_head()
    assert policy.model.config._attn_implementation == gpu_attention, "after a failure as well"
