"""A stand-in for vLLM that records how it is used, and behaves on a CPU as `vllm.LLM` does on a GPU.

It has the names of `contracts.vllm_contract` and no others. It draws from the process's random generators, keeps its
weights asleep until it is woken up, and gives log-probabilities that tell which weights they come from. It refuses what
would hang vLLM or sample from wrong weights.
"""

import logging
import os
import random
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any

import numpy as np
import pytest
import torch
from contracts import vllm_contract as contract
from torch import Tensor

from rence_lightning.rollouts import vllm as engine_module
from rence_lightning.rollouts import vllm_host

Call = tuple[str, dict[str, Any]]


class Recording:
    """What all stand-ins of a test have done.

    Attributes:
        calls: Name and arguments of each call, in their order.
        environment: The process's environment at the start of the engine.
        sampling: The fields that were set of the requests' `SamplingParams`.
        fail: Called with the number of the call and its name before each; it may raise.
        build: Called within `LLM()`, where vLLM has its collectives.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.environment: dict[str, str] = {}
        self.sampling: list[dict[str, Any]] = []
        self.fail: Callable[[str], None] = lambda name: None
        self.build: Callable[[], None] = lambda: None
        self.left_out: set[str] = set()
        self.behind = False  # whether a push gives the engine the weights of the push before it
        self.preempted = 0
        self.answers: dict[str, Any] = {}

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    def note(self, name: str, **arguments: Any) -> None:
        self.calls.append((name, arguments))
        self.fail(name)


class StandIn:
    """`vllm.LLM`."""

    recording: Recording

    def __init__(self, model: str, **settings: Any) -> None:
        unknown = set(settings) - {*contract.SETTINGS, *contract.NAMED_IN_DOCUMENTATION}
        assert not unknown, f"the contract does not name {unknown}"
        recording = self.recording
        recording.environment = dict(os.environ)
        recording.note("LLM", model=model, **settings)
        disturb()
        recording.build()
        self.model_config = types.SimpleNamespace(max_model_len=settings.get("max_model_len", 256))
        self.llm_engine = Queue(self)
        self.asleep: set[str] = set()
        self.weights: dict[str, Tensor] = {}
        self.pushed: dict[str, Tensor] = {}
        self.stale = False  # whether keys and values of earlier weights are kept

    def collective_rpc(self, method: str, kwargs: dict[str, Any]) -> None:
        assert "weights" not in self.asleep, "weights are pushed into memory that is asleep"
        assert set(kwargs) == set(contract.RPC_METHODS[method])
        weights = {}
        for name, weight in kwargs["weights_iterator"]:
            weights[name] = weight.clone()
            if len(weights) == 2:
                self.recording.note("collective_rpc", method=method)
        self.weights = self.pushed if self.recording.behind and self.pushed else weights
        self.pushed, self.stale = weights, True
        if self.recording.left_out:
            logger = logging.getLogger(vllm_host.LOADING_LOGGER)
            logger.warning(f"Following weights were {contract.LEFT_OUT} from checkpoint: %s", self.recording.left_out)

    def wake_up(self, tags: list[str] | None = None) -> bool:
        self.recording.note("wake_up", tags=tags)
        assert set(tags or ()) <= self.asleep
        self.asleep -= set(tags or contract.TAGS)
        return bool(self.recording.answers.get("wake_up", not self.asleep))

    def sleep(self, level: int) -> None:
        self.recording.note("sleep", level=level)
        assert not self.llm_engine.running
        self.asleep, self.weights = set(contract.TAGS), {}

    def apply_model(self, func: Callable[[Any], Any]) -> list[Any]:
        self.recording.note("apply_model")
        assert not self.asleep
        return [func(types.SimpleNamespace(named_parameters=self.weights.items))]

    def get_metrics(self) -> list[Any]:
        self.recording.note("get_metrics")
        names = {engine_module.PREEMPTIONS: self.recording.preempted, "vllm:prompt_tokens": 7}
        return [only(contract.METRIC_FIELDS, name=name, value=value) for name, value in names.items()]

    def reset_prefix_cache(self) -> bool:
        self.recording.note("reset_prefix_cache")
        self.stale = False
        return bool(self.recording.answers.get("reset_prefix_cache", not self.llm_engine.running))


class Queue:
    """`LLM.llm_engine`."""

    def __init__(self, llm: StandIn) -> None:
        self._llm = llm
        self.running: dict[str, tuple[list[int], Any]] = {}
        self.engine_core = types.SimpleNamespace(shutdown=lambda: llm.recording.note("shutdown"))

    def add_request(self, request_id: str, prompt: dict[str, list[int]], params: Any) -> None:
        self._llm.recording.note("add_request", request_id=request_id)
        self._llm.recording.sampling.append(params.given)
        self.running[request_id] = (prompt["prompt_token_ids"], params)

    def abort_request(self, request_ids: list[str]) -> None:
        self._llm.recording.note("abort_request", request_ids=request_ids)
        for name in request_ids:
            del self.running[name]

    def get_num_unfinished_requests(self) -> int:
        return sum(params.given["n"] for _, params in self.running.values())

    def step(self) -> list[Any]:
        """Finishes the oldest request; each token's log-probability is the sum of all weights."""
        llm = self._llm
        llm.recording.note("step")
        assert not llm.asleep, "vLLM hangs while it is asleep"
        assert llm.weights and not llm.stale, "keys and values of earlier weights"
        disturb()
        if not self.running:
            return []
        name = next(iter(self.running))
        _, params = self.running.pop(name)
        log_prob = -float(sum(weight.double().abs().sum() for weight in llm.weights.values()))
        completions = [
            only(
                contract.COMPLETION_FIELDS,
                index=index,
                token_ids=[5, 6],
                logprobs=types.SimpleNamespace(logprobs=[log_prob, log_prob]),
                finish_reason="length",
            )
            for index in range(params.given["n"])
        ]
        return [only(contract.REQUEST_FIELDS, request_id=name, outputs=completions)]


def only(names: tuple[str, ...], **values: Any) -> types.SimpleNamespace:
    """An object that has the names of the contract."""
    assert set(values) == set(names)
    return types.SimpleNamespace(**values)


class SamplingParams:
    def __init__(self, **given: Any) -> None:
        assert set(given) <= set(contract.SAMPLING_FIELDS), set(given) - set(contract.SAMPLING_FIELDS)
        self.given = given


class RequestOutputKind(Enum):
    FINAL_ONLY = 2


def disturb() -> None:
    """Uses the random generators of the process, as vLLM does."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@contextmanager
def stand_in() -> Iterator[Recording]:
    """Puts the stand-in in the place of vLLM, on what looks like a machine with a GPU."""
    recording = Recording()
    llm = type("LLM", (StandIn,), {"recording": recording})
    package: Any = types.ModuleType("vllm")
    package.LLM, package.SamplingParams = llm, SamplingParams
    sampling: Any = types.ModuleType("vllm.sampling_params")
    sampling.RequestOutputKind = RequestOutputKind
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, "vllm", package)
        patch.setitem(__import__("sys").modules, "vllm.sampling_params", sampling)
        patch.setattr(vllm_host, "version", lambda name: vllm_host.SUPPORTED[-1])
        for module in (engine_module, vllm_host):
            patch.setattr(module, "on_gpu", lambda: True)
        patch.setattr(torch, "autocast", lambda *_, **__: torch.no_grad())  # that of a GPU warns without one
        yield recording
