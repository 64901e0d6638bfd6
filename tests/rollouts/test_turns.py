"""Responses of several turns: replies are read in their place, whenever they come, and change the context alone."""

import random
import threading
from array import array
from collections.abc import Container, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from itertools import islice

import pytest
import torch
from engine_streams import finished
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import EOS, VOCABULARY, tiny_policy

from rence_lightning.rollouts import Request, Rollout, Sampling, SamplingStep, TransformersEngine
from rence_lightning.rollouts.decoding import GeneralDecoder, SharedPromptDecoder
from rence_lightning.rollouts.draw import sample, uniforms
from rence_lightning.rollouts.turns import TurnByTurn

POLICY = tiny_policy()


class Script:
    """Replies that depend on the tokens before them, and come after some time."""

    def __init__(self, most: int, longest: float = 0.0, seed: int = 0) -> None:
        self.most, self.longest, self.chance = most, longest, random.Random(seed)

    def reply(self, response: int, tokens: Sequence[int]) -> list[int] | None:
        """Nothing to some turns that only seem to have ended; the end after so many tokens."""
        rng = random.Random(f"{response} {list(tokens)}")
        if len(tokens) > self.most:
            return None
        return [rng.choice([EOS, *range(3, VOCABULARY)]) for _ in range(rng.randrange(4))]

    def __call__(self, response: int, token_ids: "array[int]") -> "Future[Sequence[int] | None]":
        future: Future[Sequence[int] | None] = Future()
        answer = self.reply(response, token_ids)
        if self.longest and self.chance.random() < 0.7:
            threading.Timer(self.chance.random() * self.longest, future.set_result, [answer]).start()
        else:
            future.set_result(answer)
        return future


@torch.no_grad()
def alone(request: Request, turn_by_turn: bool = False) -> list[Rollout]:
    """Each response by itself, with a forward pass over all that stands before each token."""
    script, rollouts = request.replies, []
    numbers = uniforms(request.seed, request.group_size, request.sampling.max_response_tokens)
    for response in range(request.group_size):
        turns = start = 0
        tokens: list[int] = []
        log_probs: list[float] = []
        replies: list[tuple[int, int]] = []
        reason = "length"
        while len(tokens) < request.sampling.max_response_tokens:
            logits = POLICY.model(torch.tensor([[*request.prompt, *tokens]])).logits[:, -1]
            number = numbers[response, len(tokens)]
            if turn_by_turn:
                seed = random.Random(f"{request.seed} {response} {turns + 1}").getrandbits(63)
                number = uniforms(seed, 1, len(tokens) - start + 1)[0, -1]
            token, log_prob = sample(logits, number.unsqueeze(0), request.sampling)
            tokens.append(int(token))
            log_probs.append(float(log_prob))
            if len(tokens) == request.sampling.max_response_tokens:
                reason = "stop" if tokens[-1] == EOS else "length"
                break
            if tokens[-1] != EOS and tokens[-1] not in request.stop_ids:
                continue
            if (reply := script.reply(response, tokens)) is None:
                reason = "stop"
                break
            if len(tokens) + len(reply) >= request.sampling.max_response_tokens:
                break
            if reply:
                replies.append((len(tokens), len(tokens) + len(reply) - 1))
                tokens += reply
            turns, start = turns + 1, len(tokens)
        rollouts.append(Rollout(array("i", tokens), array("f", log_probs), reason, tuple(replies)))
    return rollouts


REQUESTS = st.builds(
    lambda prompt, size, most, seed: Request(
        prompt, size, Sampling(0.8, 1.0, most), seed, frozenset({5, 9}), Script(most // 2, 0.003, seed)
    ),
    st.lists(st.integers(3, VOCABULARY - 1), min_size=1, max_size=6),
    st.integers(1, 4),
    st.integers(1, 24),
    st.integers(0, 50),
)
STREAMS = st.lists(REQUESTS, min_size=1, max_size=5)


@settings(max_examples=40)
@given(STREAMS, st.integers(1, 12), st.sampled_from([SharedPromptDecoder, GeneralDecoder]))
def test_turns_are_those_of_each_response_alone(stream: list[Request], room: int, decoder: type) -> None:
    engine = TransformersEngine(room)
    engine.sync(POLICY)
    engine._decoder = decoder
    for request, group in zip(stream, finished(engine, stream), strict=True):
        for rollout, expected in zip(group, alone(request), strict=True):
            assert replace(rollout, log_probs=expected.log_probs) == expected
            assert list(rollout.log_probs) == pytest.approx(list(expected.log_probs), abs=2e-5)


@settings(max_examples=40)
@given(STREAMS, st.integers(1, 12))
def test_an_engine_of_single_turns_samples_several(stream: list[Request], room: int) -> None:
    """The same, apart from the random numbers: each turn begins a stream of its own."""
    engine = TransformersEngine(room)
    engine.sync(POLICY)
    groups: dict[int, list[Rollout]] = {}
    for step in TurnByTurn(engine, stream, ()).stream():
        groups |= {group.index: group.rollouts for group in step.finished}
    for number, request in enumerate(stream):
        for rollout, expected in zip(groups[number], alone(request, turn_by_turn=True), strict=True):
            assert replace(rollout, log_probs=expected.log_probs) == expected
            assert list(rollout.log_probs) == pytest.approx(list(expected.log_probs), abs=2e-5)


class Forgetful:
    """Samples single turns, and loses the first."""

    def generate(self, requests: Iterable[Request], cancelled: Container[int]) -> Iterator[SamplingStep]:
        engine = TransformersEngine(4)
        engine.sync(POLICY)
        for number, step in enumerate(engine.generate(requests, cancelled)):
            yield step if number else SamplingStep(0, 0)


def test_a_turn_that_an_engine_loses_ends_the_stream() -> None:
    """The draw then says which responses are missing."""
    request = Request([3, 4], 1, Sampling(1.0, 1.0, 1), 0, replies=Script(0))
    steps = list(islice(TurnByTurn(Forgetful(), [request], ()).stream(), 1000))
    assert len(steps) < 1000 and not any(step.finished for step in steps)
