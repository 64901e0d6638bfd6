"""Sampling by vLLM, in the trainer's own process and on its own device.

Every rank has its own engine, or several share one (tensor parallelism). It is built once, without weights. Before each
iteration the policy's weights are pushed into it, one parameter at a time, so that a sharded policy is never in memory
as a whole. On a GPU the engine sleeps while the policy trains, which frees its memory.
"""

import os
import warnings
from collections import deque
from collections.abc import Container, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from rence_lightning.distributed import gather, longest_wait
from rence_lightning.errors import EngineError, UserError, one_line
from rence_lightning.parts import Configurable
from rence_lightning.policy import sum_of_bits
from rence_lightning.rollouts.engine import Request, SampledPolicy, SamplingStep, end_of_sequence_ids
from rence_lightning.rollouts.vllm_host import (
    STARTING,
    check_installed,
    config_folder,
    failures,
    on_gpu,
    torchrun_variables,
    undisturbed,
    weights_left_out,
)
from rence_lightning.rollouts.vllm_queue import VLLMQueue

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CPU_CACHE_BYTES = 2**30
"""Memory for keys and values on a CPU, where the default of vLLM is nearly all of the main memory."""


UNFUSED = ("embed_tokens.weight", "o_proj.weight", "down_proj.weight")
"""Ends of the names of weights that vLLM keeps as they are pushed; on a CPU, the embedding alone."""

_Sums = dict[str, tuple[int, int]]
"""Bytes of a weight, and the sum of its bits, by its name."""

PREEMPTIONS = "vllm:num_preemptions"
"""vLLM's count of responses that it has put back, and begins again, because memory for keys and values ran out."""


class VLLMEngine(Configurable):
    """Paged, continuously batched sampling by vLLM.

    Log-probabilities are at the sampling temperature. With top-p below 1 they are those of the truncated distribution,
    unlike those of `TransformersEngine`.

    Args:
        dtype: Data type in which the engine computes (default: that of the policy); the output projection is computed
            in float32. In bfloat16 its log-probabilities differ from a float32 trainer's by about 1e-2 per token;
            float16 has three more bits, and overflows beyond 65504.
        max_model_len: Largest number of tokens of prompt and response together (default: the context of the policy).
        max_num_seqs: Number of responses sampled at a time.
        tensor_parallel_size: Number of consecutive ranks of one node that share the weights of an engine, where a
            policy and its keys and values do not fit on one GPU.
        gpu_memory_utilization: Share of a GPU's memory for the engine's weights, keys and values.
        kv_cache_memory_bytes: Memory for keys and values, instead of what that share leaves (default on a CPU: 1 GiB).
        sleep: Whether the engine frees its GPU memory while the policy trains.
        enforce_eager: Whether to do without CUDA graphs, for a faster start and slower sampling.
        settings: Further arguments of `vllm.LLM`, such as `sleep_mode_offload_cudagraph: true`, with which sleep frees
            the memory of CUDA graphs too, or `hf_overrides: {head_dtype: model}` for an output projection in `dtype`;
            `disable_log_stats` is always false, because the statistics count preemptions.

    Raises:
        UserError: vLLM is missing or too old, or a setting is impossible.
    """

    awaits_requests = True
    """Declares that a None among the requests says that there are none yet."""

    def __init__(
        self,
        dtype: Literal["float32", "bfloat16", "float16"] | None = None,
        max_model_len: int | None = None,
        max_num_seqs: int = 256,
        tensor_parallel_size: int = 1,
        gpu_memory_utilization: float = 0.5,
        kv_cache_memory_bytes: int | None = None,
        sleep: bool = True,
        enforce_eager: bool = False,
        settings: dict[str, Any] | None = None,
    ) -> None:
        for name, number in (("max_num_seqs", max_num_seqs), ("tensor_parallel_size", tensor_parallel_size)):
            if number < 1:
                raise UserError(f"engine: {name} is {number}, it must be >= 1")
        if not 0 < gpu_memory_utilization < 1:
            raise UserError(f"engine: gpu_memory_utilization is {gpu_memory_utilization}, it must be in (0, 1)")
        check_installed()
        self.dtype, self.max_model_len, self.max_num_seqs = dtype, max_model_len, max_num_seqs
        self.tensor_parallel_size, self.gpu_memory_utilization = tensor_parallel_size, gpu_memory_utilization
        self.kv_cache_memory_bytes, self.sleep = kv_cache_memory_bytes, sleep
        self.enforce_eager, self.settings = enforce_eager, settings or {}
        self._llm: Any = None
        self._state: Literal["empty", "ready", "asleep", "failed"] = "empty"
        self._end_ids: list[int] = []
        self._partners: dist.ProcessGroup | None = None
        self._preempted = 0

    def sync(self, policy: SampledPolicy) -> None:
        before = self._state
        if before == "failed":
            raise EngineError("vLLM has failed before, and what its memory holds is unknown; start the run again")
        self._state = "failed"  # unless this ends well: no response may come from weights that are old or incomplete
        with undisturbed():
            if self._llm is None:
                self._start(policy)
            self._push(policy.weights(policy.compute_device, self._dtype(policy.model)), before == "asleep")
        self._state = "ready"

    def release(self) -> None:
        """Puts the engine to sleep on a GPU. Its weights are dropped, because the next `sync` pushes new ones."""
        if self._state == "ready" and self.sleep and on_gpu():
            self._state = "failed"
            with failures("freeing its memory"):
                self._llm.sleep(level=2)
            self._state = "asleep"

    def close(self) -> None:
        """Shuts vLLM down, with all process groups of torch: nothing of this process may need them afterwards."""
        llm, self._llm = self._llm, None
        if llm is None:
            return
        asleep, self._state, self._partners = self._state == "asleep", "failed", None
        try:
            with suppress(Exception):  # without room for it, freeing what is not mapped prints errors, no more
                if asleep:
                    torch.cuda.empty_cache()
                    llm.wake_up()
            llm.llm_engine.engine_core.shutdown()
        except Exception as error:  # the run has all of its results
            warnings.warn(f"vLLM did not shut down: {one_line(error)}", stacklevel=2)

    def figures(self) -> dict[str, float]:
        """`preempted`: how often since the last call memory for keys and values ran out, so that a response was put
        back and its tokens were computed again."""
        counts = [metric.value for metric in self._llm.get_metrics() if metric.name == PREEMPTIONS]
        before, self._preempted = self._preempted, sum(counts)
        return {"preempted": (self._preempted - before) / self.tensor_parallel_size}  # all of its ranks count alike

    def _push(self, weights: Iterator[tuple[str, Tensor]], asleep: bool) -> None:
        """Gives the engine new weights, and wakes it up for them; it is an error if it keeps some of its own."""
        pushed: _Sums = {}
        weights = _noted(weights, pushed)
        try:
            if asleep:
                torch.cuda.empty_cache()  # the engine needs the memory that training left in torch's cache
                with failures("waking up"):
                    self._llm.wake_up(tags=["weights"])
            with failures("taking over the policy's weights"), weights_left_out() as left_out:
                self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        except Exception:
            with suppress(Exception):  # the other ranks still wait for the shards of this one
                deque(weights, maxlen=0)
            raise
        deque(weights, maxlen=0)
        if left_out:
            raise EngineError(
                f"vLLM's model has {len(left_out)} weights that the policy has not, and would sample with random "
                f"values in their place: {', '.join(left_out[:5])}; choose another engine for this model"
            )
        if asleep:
            with failures("waking up"):
                if not self._llm.wake_up(tags=["kv_cache"]):
                    raise RuntimeError("a part of its memory is still asleep")
        with failures("forgetting the keys and values of the old weights"):  # those of prompts that share their start
            if not self._llm.reset_prefix_cache():
                raise RuntimeError("requests are still running while the policy's weights are pushed")
        self._compare(pushed)

    def _compare(self, pushed: "_Sums") -> None:
        """Raises `EngineError` if the engine holds other weights than those pushed, such as those of an iteration ago,
        from which it would sample plausible responses. What vLLM has repacked or padded is not compared."""
        with failures("comparing its weights with the policy's"):
            (held,) = self._llm.apply_model(lambda model: _sums_of(model.named_parameters()))
        shares: list[_Sums] = [held] * self.tensor_parallel_size
        if self._partners is not None:  # each holds a part of a weight
            dist.all_gather_object(shares, held, group=self._partners)
        others = []
        for name, (size, bits) in pushed.items():
            parts = [share[name] for share in shares if name in share]
            if sum(part for part, _ in parts) == size and sum(part for _, part in parts) != bits:
                others.append(name)
        if others:
            raise EngineError(
                f"vLLM holds other values than the policy's in {len(others)} weights that were pushed into it: "
                f"{', '.join(others[:5])}; start the run again, or choose another engine for this model"
            )

    def _dtype(self, model: "PreTrainedModel") -> torch.dtype:
        return model.dtype if self.dtype is None else getattr(torch, self.dtype)

    def _start(self, policy: SampledPolicy) -> None:
        """Builds the engine without weights. vLLM's start and the push of a sharded policy after it are collectives: a
        rank that fails before either takes the others along."""
        model, device = policy.model, policy.compute_device
        self._end_ids = end_of_sequence_ids(model)
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # it shares GPU memory and process groups of this process
        # Its warnings concern settings that are made here; its errors print the whole queue and are raised as well.
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "CRITICAL")
        with failures(STARTING):
            from vllm import LLM
        settings, folder = self._settings(model, device), config_folder(model)
        gather(None)
        if self.tensor_parallel_size > 1:
            self._partners = self._meet_partners()
        with torchrun_variables(device), failures(STARTING):
            self._llm = LLM(str(folder), **settings)
        gather(None)

    def _settings(self, model: "PreTrainedModel", device: torch.device) -> dict[str, Any]:
        """The arguments of `vllm.LLM`."""
        if not dist.is_initialized() and device.index:
            raise UserError(
                f"engine: vLLM alone takes the first GPU, but the policy is on {device}; choose the GPU with "
                "CUDA_VISIBLE_DEVICES in place of trainer.devices"
            )
        dtype = self._dtype(model)
        settings: dict[str, Any] = {
            "dtype": str(dtype).removeprefix("torch."),
            "runner": "generate",
            "load_format": "dummy",
            "skip_tokenizer_init": True,
            "max_num_seqs": self.max_num_seqs,
            "tensor_parallel_size": self.tensor_parallel_size,
            "logprobs_mode": "processed_logprobs",  # at the sampling temperature
            "enforce_eager": self.enforce_eager or not on_gpu(),
        }
        if self.max_model_len is not None:
            settings["max_model_len"] = self.max_model_len
        if dist.is_initialized():  # the ranks exist already, and each has its device
            settings["distributed_executor_backend"] = "external_launcher"
        if on_gpu():
            settings |= {"gpu_memory_utilization": self.gpu_memory_utilization, "enable_sleep_mode": self.sleep}
        else:  # a prompt that is read in chunks restores a random state, which vLLM 0.32 cannot do on a CPU
            settings["enable_chunked_prefill"] = False
        if not on_gpu() or self.kv_cache_memory_bytes is not None:
            settings["kv_cache_memory_bytes"] = self.kv_cache_memory_bytes or CPU_CACHE_BYTES
        settings |= {**self.settings, "disable_log_stats": False}  # they count preemptions
        if dtype != torch.float32 and isinstance(overrides := settings.get("hf_overrides", {}), dict):
            settings["hf_overrides"] = {"head_dtype": "float32", **overrides}  # as the trainer computes its logits
        return settings

    def _meet_partners(self) -> dist.ProcessGroup:
        """The group of ranks that share the engine of this rank."""
        size, world = self.tensor_parallel_size, dist.get_world_size() if dist.is_initialized() else 1
        if world % size:
            raise UserError(f"engine: tensor_parallel_size {size} does not divide the run's {world} processes")
        ranks = [list(range(first, first + size)) for first in range(0, world, size)]
        # By gloo, because what is exchanged are objects in main memory.
        mine, _ = dist.new_subgroups_by_enumeration(ranks, longest_wait(), backend="gloo")
        assert mine is not None
        return mine

    def generate(self, requests: Iterable[Request], cancelled: Container[int] = ()) -> Iterator[SamplingStep]:
        if self._state != "ready":
            raise RuntimeError("the engine has no weights: call sync(policy) before generate()")
        queue = VLLMQueue(self._llm, self._end_ids, self.max_num_seqs, self._partners)
        try:
            yield from queue.stream(requests, cancelled)
        except EngineError:  # its queue may still hold requests
            self._state = "failed"
            raise


def _sums_of(weights: Iterable[tuple[str, Tensor]]) -> _Sums:
    """Sizes and sums of the weights that vLLM keeps as they are."""
    return {name: (each.nbytes, sum_of_bits(each.detach())) for name, each in weights if name.endswith(UNFUSED)}


def _noted(weights: Iterable[tuple[str, Tensor]], sums: _Sums) -> Iterator[tuple[str, Tensor]]:
    """The weights one at a time; their sizes and sums are added to `sums` as they are taken."""
    for pair in weights:
        sums |= _sums_of([pair])
        yield pair
