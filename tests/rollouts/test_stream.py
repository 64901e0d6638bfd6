"""The stream of the embedded engine: against a brute-force sampler, in any mixture, order and number of slots."""

import gc
import warnings
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from engine_streams import finished, sampled
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import EOS, PAD, SHAPE, VOCABULARY, NoTokenizer, tiny_model, tiny_policy
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM, PreTrainedModel

from rence_lightning.policy import Policy
from rence_lightning.rollouts import Request, Rollout, Sampling, TransformersEngine
from rence_lightning.rollouts import slots as slots_module
from rence_lightning.rollouts.decoding import GeneralDecoder, SharedPromptDecoder, decoder_for
from rence_lightning.rollouts.draw import uniforms
from rence_lightning.rollouts.shared_prompts import PromptPass, ResponsePass

MIXED = [
    Request([5, 6, 7], 3, Sampling(max_response_tokens=12), 1),
    Request([3, 4], 1, Sampling(temperature=0, max_response_tokens=9), 2),
    Request([9, 10, 11, 12, 13, 14, 15, 16, 17], 5, Sampling(temperature=0.7, top_p=0.8, max_response_tokens=20), 3),
    Request([5, 6, 7], 3, Sampling(max_response_tokens=12), 4),
    Request([20], 4, Sampling(temperature=1.3, max_response_tokens=1), 5),
    Request([8, 8, 8, 8, 8], 2, Sampling(max_response_tokens=30), 6),
]


def gpt2() -> PreTrainedModel:
    torch.manual_seed(0)
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": VOCABULARY}
    model = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=2, eos_token_id=EOS, pad_token_id=PAD)).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(4)
    return model


def sliding(window: int = 4) -> PreTrainedModel:
    torch.manual_seed(0)
    model = MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=window)).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20)
    return model


MODELS = {
    "qwen3": tiny_model,
    "llama": lambda: tiny_model("llama-untied"),
    "gpt2": gpt2,
    "gemma2": lambda: tiny_model("gemma2"),
    "sliding": sliding,
}
"""The last two take the general path: soft-capping and a sliding window."""


@torch.no_grad()
def by_brute_force(model: PreTrainedModel, request: Request) -> list[Rollout]:
    """The plain model over the whole sequence for each token, and the plain inverse of the cumulative distribution."""
    sampling, group = request.sampling, []
    for row in uniforms(request.seed, request.group_size, sampling.max_response_tokens):
        tokens: list[int] = []
        log_probs: list[float] = []
        for uniform in row:
            logits = model(torch.tensor([[*request.prompt, *tokens]]), use_cache=False).logits[0, -1].double()
            probs = (logits / (sampling.temperature or 1.0)).softmax(-1)
            token = int(probs.argmax()) if sampling.temperature == 0 else drawn(probs, float(uniform), sampling.top_p)
            tokens.append(token)
            log_probs.append(float(probs[token].log()))
            if token == EOS:
                break
        group.append(Rollout(tokens, log_probs, "stop" if tokens[-1] == EOS else "length"))  # type: ignore[arg-type]
    return group


def drawn(probs: Tensor, uniform: float, top_p: float) -> int:
    """Nucleus sampling, token by token."""
    order = sorted(range(len(probs)), key=lambda token: -probs[token]) if top_p < 1 else list(range(len(probs)))
    nucleus: list[int] = []
    for token in order:
        if top_p < 1 and float(probs[nucleus].sum()) >= top_p:
            break
        nucleus.append(token)
    target = uniform * float(probs[nucleus].sum())
    for token in nucleus:
        target -= float(probs[token])
        if target < 0:
            return token
    return nucleus[-1]


def assert_same(groups: list[list[Rollout]], expected: list[list[Rollout]]) -> None:
    for group, reference in zip(groups, expected, strict=True):
        for ours, theirs in zip(group, reference, strict=True):
            assert ours.token_ids.tolist() == list(theirs.token_ids) and ours.finish_reason == theirs.finish_reason
            torch.testing.assert_close(
                torch.tensor(ours.log_probs), torch.tensor(list(theirs.log_probs)), rtol=0, atol=2e-5
            )


def engine_for(model: PreTrainedModel, max_num_seqs: int = 64) -> TransformersEngine:
    engine = TransformersEngine(max_num_seqs)
    engine.sync(Policy(model, NoTokenizer()))  # type: ignore[arg-type]
    return engine


@pytest.mark.parametrize("name", MODELS)
def test_a_mixed_stream_is_what_brute_force_samples(name: str) -> None:
    """Prompt lengths, group sizes, temperatures and limits mixed; from one group at a time to all together."""
    model = MODELS[name]()
    expected = [by_brute_force(model, request) for request in MIXED]
    assert {rollout.finish_reason for group in expected for rollout in group} == {"stop", "length"}
    with warnings.catch_warnings(action="ignore"):
        for max_num_seqs in (1, 4, 8, 11, 64):
            assert_same(finished(engine_for(model, max_num_seqs), MIXED), expected)


@pytest.mark.parametrize("name", MODELS)
def test_which_models_share_prompts(name: str) -> None:
    """A model takes the general path only where it must, and a warning says why."""
    model = MODELS[name]()
    if name in ("gemma2", "sliding"):
        with pytest.warns(UserWarning, match="sliding|softcap"), torch.no_grad():
            assert decoder_for(model) is GeneralDecoder
    else:
        with torch.no_grad():
            assert decoder_for(model) is SharedPromptDecoder


REQUESTS = st.builds(
    Request,
    prompt=st.lists(st.integers(2, VOCABULARY - 1), min_size=1, max_size=8),
    group_size=st.integers(1, 5),
    sampling=st.sampled_from([request.sampling for request in MIXED]),
    seed=st.integers(0, 3),
)


@given(stream=st.lists(REQUESTS, max_size=8), max_num_seqs=st.integers(1, 20), shared=st.booleans())
def test_any_stream_in_any_number_of_slots_is_each_request_alone(
    stream: list[Request], max_num_seqs: int, shared: bool
) -> None:
    engine = engine_for(POLICY.model, max_num_seqs)
    engine._decoder = SharedPromptDecoder if shared else GeneralDecoder
    alone = [finished(engine_for(POLICY.model), [request])[0] for request in stream]
    assert_same(finished(engine, stream), alone)


POLICY = tiny_policy()


@pytest.mark.parametrize("shared", [True, False])
def test_what_is_cancelled_uses_no_slots_and_nothing_is_taken_that_is_not_started(shared: bool) -> None:
    """Groups of 4 in 8 slots, whose responses never end. The caches of transformers take no group into a batch."""
    engine = engine_for(never_ending(tiny_model()), 8)
    engine._decoder = SharedPromptDecoder if shared else GeneralDecoder
    taken: list[int] = []
    cancelled: set[int] = set()

    def source() -> Iterator[Request]:
        for number in range(20):
            taken.append(number)
            yield Request([5, 6, 7], 4, Sampling(max_response_tokens=200), number)

    counts, seen = [], []
    for number, step in enumerate(engine.generate(source(), cancelled)):
        counts.append(step.tokens)
        seen.append(list(taken))
        if number == 2:
            cancelled.add(0)
        if number == 4:
            cancelled |= {1, 2}
        if number == 6:
            break
    assert not step.finished and step.responses == 0
    if shared:  # a new group has its first token beside the second
        assert counts == [16, 8, 8, 12, 8, 16, 8]
        assert seen == [[0, 1]] * 3 + [[0, 1, 2]] * 2 + [[0, 1, 2, 3, 4]] * 2
    else:
        assert counts == [16, 8, 8, 4, 4, 16, 8]
        assert seen == [[0, 1]] * 5 + [[0, 1, 2, 3, 4]] * 2
    assert taken == seen[-1]


def never_ending(model: PreTrainedModel) -> PreTrainedModel:
    model.generation_config.eos_token_id = -1
    return model


class _Error(Exception):
    pass


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("end", ["all", "close", "consumer", "requests", "model"])
def test_the_model_is_as_it_was_between_steps_and_after_any_end(training: bool, end: str) -> None:
    model = tiny_model()
    model.gradient_checkpointing_enable()
    model.train(training)
    model.model.layers[0].train(not training)  # a part of it may differ from the rest
    engine = engine_for(model, 4)

    def state() -> tuple[Any, ...]:
        return (
            model.config._attn_implementation,
            [module.training for module in model.modules()],
            torch.get_rng_state().tolist(),
            torch.is_grad_enabled(),
            model.is_gradient_checkpointing,
        )

    def source() -> Iterator[Request]:
        for request in MIXED:
            assert state() == before
            yield request
        if end == "requests":
            raise _Error

    def consume() -> None:
        for step in stream:
            assert state() == before
            if end == "consumer" and step.finished:
                raise _Error

    def fail(*_: object) -> None:
        raise _Error

    before = state()
    stream = engine.generate(source())
    hook = model.model.layers[1].mlp.register_forward_pre_hook(fail) if end == "model" else None
    if end == "close":
        next(stream)
        next(stream)
        stream.close()  # type: ignore[attr-defined]
    elif end == "all":
        consume()
    else:
        with pytest.raises(_Error):
            consume()
    if hook is not None:
        hook.remove()
    assert state() == before
    assert_same(finished(engine, MIXED), finished(engine_for(tiny_model()), MIXED))


@pytest.mark.parametrize("close", [True, False])
def test_keys_and_values_are_freed_at_the_end(close: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[Any]] = []
    for kind in (SharedPromptDecoder, ResponsePass, PromptPass):
        original = kind.__init__

        def counted(self: Any, *args: Any, original: Any = original) -> None:
            alive.append(weakref.ref(self))
            original(self, *args)

        monkeypatch.setattr(kind, "__init__", counted)
    engine = engine_for(POLICY.model, 4)
    stream = engine.generate(MIXED)
    if close:
        next(stream)
        assert any(reference() is not None for reference in alive)
        stream.close()  # type: ignore[attr-defined]
    else:
        list(stream)
    del stream
    gc.collect()
    assert len(alive) > 3 and all(reference() is None for reference in alive)


def test_prompts_are_read_once_and_kept_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens that go through the embedding: each prompt once, then each response's own but the last."""
    read: list[torch.Size] = []
    hook = POLICY.model.get_input_embeddings().register_forward_hook(lambda _m, args, _o: read.append(args[0].shape))
    engine = engine_for(POLICY.model)
    engine._decoder = SharedPromptDecoder
    prompts = [list(range(3, 20)), list(range(4, 21))]
    try:
        groups = sampled(engine, prompts, 8, Sampling(max_response_tokens=6), [1, 2])
    finally:
        hook.remove()
    assert read[0] == (2, 17) and sum(shape.numel() for shape in read[1:]) <= 16 * 5
    assert all(shape[1] == 1 for shape in read[1:])
    assert len(groups) == 2


def test_rows_that_ended_are_left_behind() -> None:
    """With one of forty responses alive, no more than a few rows are computed."""
    rows: list[int] = []
    hook = POLICY.model.get_input_embeddings().register_forward_hook(lambda _m, args, _o: rows.append(args[0].shape[0]))
    engine = engine_for(POLICY.model)
    engine._decoder = SharedPromptDecoder
    alive = []
    try:
        live = 40
        for step in engine.generate([Request([5, 6, 7], 40, Sampling(max_response_tokens=60), 3)]):
            alive.append(live)
            live -= step.responses
    finally:
        hook.remove()
    for count, computed in zip(alive[1:], rows[2:], strict=False):
        assert computed * (slots_module.CROWDED - 1) <= count * slots_module.CROWDED + slots_module.CROWDED
    assert min(rows) < 10


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shared", [True, False])
def test_under_autocast(dtype: torch.dtype, shared: bool) -> None:
    """Log-probabilities are those of the model's own forward pass under autocast, up to the rounding of that type."""
    engine = engine_for(POLICY.model, 8)
    with torch.autocast("cpu", dtype), torch.no_grad():
        assert decoder_for(POLICY.model) is SharedPromptDecoder
        engine._decoder = SharedPromptDecoder if shared else GeneralDecoder
        groups = finished(engine, MIXED)
    for request, group in zip(MIXED, groups, strict=True):
        for rollout in group:
            ids = torch.tensor([[*request.prompt, *rollout.token_ids]])
            logits = POLICY.model(ids).logits[0, len(request.prompt) - 1 : -1].detach()
            log_probs = (logits / (request.sampling.temperature or 1)).log_softmax(-1)
            expected = log_probs.gather(-1, torch.tensor(rollout.token_ids).long().unsqueeze(-1)).squeeze(-1)
            torch.testing.assert_close(torch.tensor(rollout.log_probs), expected, rtol=0, atol=0.15)


@pytest.mark.parametrize("decoder", [SharedPromptDecoder, GeneralDecoder])
def test_long_responses_outgrow_the_first_buffers(decoder: type) -> None:
    model = never_ending(tiny_model())
    engine = engine_for(model, 3)
    engine._decoder = decoder
    groups = finished(engine, [Request([5, 6], 2, Sampling(max_response_tokens=150), 1)])
    for rollout in groups[0]:
        ids = torch.tensor([[5, 6, *rollout.token_ids]])
        logits = model(ids).logits[0, 1:-1].detach().log_softmax(-1)
        expected = logits.gather(-1, ids[0, 2:].unsqueeze(-1)).squeeze(-1)
        torch.testing.assert_close(torch.tensor(rollout.log_probs), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("bad", [Request([], 2, Sampling(), 1), Request([3], 0, Sampling(), 1)])
def test_impossible_requests_are_refused(bad: Request) -> None:
    with pytest.raises(ValueError, match="request 1 "):
        finished(engine_for(POLICY.model), [MIXED[0], bad])


def test_many_prompt_tokens_are_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts: Sequence[list[int]] = [[3 + i] * (1 + 5 * (i % 3)) for i in range(12)]
    expected = sampled(engine_for(POLICY.model), prompts, 2, Sampling(max_response_tokens=8), range(12))
    monkeypatch.setattr("rence_lightning.rollouts.decoding.PROMPT_TOKENS", 24)
    found = sampled(engine_for(POLICY.model), prompts, 2, Sampling(max_response_tokens=8), range(12))
    assert_same(found, expected)
