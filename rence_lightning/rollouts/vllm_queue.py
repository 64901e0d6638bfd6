"""The stream of requests through vLLM: what is in its queue, what is cancelled, what is finished.

Ranks that share an engine compute every token together, so each of them must make the same calls in the same order.
They meet every few steps, exchange the requests they add and those they cancel, and then do all of it.
"""

import time
from array import array
from collections.abc import Container, Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import torch.distributed as dist

from rence_lightning.distributed import collectives
from rence_lightning.errors import EngineError, PeerFailed, UserError
from rence_lightning.rollouts.engine import FinishedGroup, Request, Rollout, SamplingStep
from rence_lightning.rollouts.intake import Intake
from rence_lightning.rollouts.vllm_host import failures, undisturbed

STEPS = 8
"""Largest number of vLLM's steps between two of ours, and between two exchanges of ranks that share an engine."""

SECONDS = 0.2
"""Time after which a step of ours ends, where no other rank shares the engine."""

PAUSE_SECONDS = 0.01
"""Length of a step of ours without a request."""

RESERVE = 8
"""vLLM's queue holds one response in this many more than it samples at a time, so that it never waits for requests."""


class _News(NamedTuple):
    """What a rank tells the ranks that share its engine."""

    added: list[tuple[int, Request]]  # with their numbers
    cancelled: list[int]
    open: bool  # whether it has requests that are not finished
    failed: bool = False  # so that the work of all is of no use


class VLLMQueue:
    """The requests of one call of `generate`, on an `vllm.LLM` that the ranks of `partners` share, if there are any."""

    def __init__(self, llm: Any, end_ids: list[int], max_num_seqs: int, partners: dist.ProcessGroup | None) -> None:
        self._engine = llm.llm_engine
        self._limit = llm.model_config.max_model_len
        self._end_ids = end_ids
        self._most = max_num_seqs + max_num_seqs // RESERVE
        self._partners = partners
        self._ranks = 1 if partners is None else dist.get_world_size(partners)
        self._place = 0 if partners is None else dist.get_rank(partners)
        self._open: dict[str, tuple[int, Request]] = {}  # requests of all ranks: the rank's place, and the request

    def stream(self, requests: Iterable[Request | None], cancelled: Container[int]) -> Iterator[SamplingStep]:
        """The stream of `RolloutEngine.generate`; raises `PeerFailed` if a rank that shares the engine has failed."""
        intake, in_step = Intake(requests, cancelled), False
        try:
            while self._exchange(self._news(intake, cancelled)):
                in_step = True
                step = self._advance()
                in_step = False
                yield step
        except GeneratorExit:  # this rank takes part in the work of the others until they are done
            while self._exchange(_News([], self._own(), False)):
                self._advance()
            raise
        except BaseException as error:
            if self._partners is not None and not in_step and not isinstance(error, PeerFailed):
                with suppress(Exception):
                    self._exchange(_News([], [], False, failed=True))
            with suppress(Exception), undisturbed():  # an engine that has failed may refuse this as well
                self._abort(list(self._open))  # what stays in the queue would come back in the next call
            raise

    def _news(self, intake: Intake, cancelled: Container[int]) -> _News:
        own = self._own()
        ended = [number for number in own if number in cancelled]
        queued = self._engine.get_num_unfinished_requests()  # responses that are not finished, of all ranks
        added = intake.take((self._most - queued) // self._ranks, idle=len(ended) == len(own))
        for prompt, most in ((len(each.prompt), each.sampling.max_response_tokens) for _, each in added):
            if prompt + most > self._limit:
                raise UserError(
                    f"engine: a prompt of {prompt} tokens and max_response_tokens {most} are more than max_model_len "
                    f"{self._limit}; raise engine.max_model_len"
                )
        return _News(added, ended, not intake.ended or bool(added) or len(ended) < len(own))

    def _own(self) -> list[int]:
        """Numbers of this rank's requests that are not finished."""
        return [int(name.partition(".")[2]) for name, (place, _) in self._open.items() if place == self._place]

    def _exchange(self, news: _News) -> bool:
        """Adds and cancels the requests of all ranks. Returns False when no rank has anything left."""
        everyone = [news] * self._ranks
        if self._partners is not None:
            with collectives():
                dist.all_gather_object(everyone, news, group=self._partners)
        if any(each.failed for each in everyone):
            raise PeerFailed
        with undisturbed():
            self._abort([f"{place}.{number}" for place, each in enumerate(everyone) for number in each.cancelled])
            for place, each in enumerate(everyone):
                for number, request in each.added:
                    self._add(f"{place}.{number}", place, request)
        return any(each.open for each in everyone)

    def _add(self, name: str, place: int, request: Request) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampling = request.sampling
        parameters = SamplingParams(
            n=request.group_size if sampling.temperature > 0 else 1,  # greedy responses are all the same
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_response_tokens,
            seed=request.seed,  # vLLM adds the index of the response
            logprobs=0,  # that of the sampled token alone
            flat_logprobs=True,  # lists of numbers, in place of a dictionary and an object for each token
            stop_token_ids=[*self._end_ids, *request.stop_ids],
            ignore_eos=True,  # the end tokens of the policy are in the list above
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        with failures("taking a request"):
            self._engine.add_request(name, {"prompt_token_ids": list(request.prompt)}, parameters)
        self._open[name] = (place, request)

    def _abort(self, names: list[str]) -> None:
        if names:
            with failures("cancelling requests"):
                self._engine.abort_request(names)
            for name in names:
                del self._open[name]

    def _advance(self) -> SamplingStep:
        """A few steps of vLLM: as many on every rank that shares the engine, because all have the same outputs."""
        deadline = time.monotonic() + SECONDS
        outputs: list[Any] = []
        if not self._open:
            time.sleep(PAUSE_SECONDS)  # no rank has a request yet
            return SamplingStep(0, 0)
        with undisturbed():
            for _ in range(STEPS):
                with failures("sampling"):
                    outputs = self._engine.step()
                if outputs or (self._partners is None and time.monotonic() > deadline):
                    break
        finished = []
        for output in outputs:
            place, request = self._open.pop(output.request_id)
            if place == self._place:
                number = int(output.request_id.partition(".")[2])
                finished.append(FinishedGroup(number, _rollouts(output, request.group_size)))
        rollouts = [rollout for group in finished for rollout in group.rollouts]
        return SamplingStep(len(rollouts), sum(len(rollout.token_ids) for rollout in rollouts), finished)


def _rollouts(output: Any, group_size: int) -> list[Rollout]:
    """The responses in the output of one request."""
    rollouts = []
    for completion in sorted(output.outputs, key=lambda completion: completion.index):
        if completion.finish_reason not in ("stop", "length"):
            raise EngineError(f"vLLM ended a response with {completion.finish_reason!r}")
        tokens, log_probs = array("i", completion.token_ids), array("f", completion.logprobs.logprobs)
        if len(tokens) != len(log_probs):
            raise EngineError(f"vLLM gave {len(log_probs)} log-probabilities for {len(tokens)} tokens")
        rollouts.append(Rollout(tokens, log_probs, completion.finish_reason))
    return rollouts if len(rollouts) == group_size else rollouts * group_size
