"""Sampling by vLLM, in the trainer's own process and on its own device.

Every rank has an engine of its own, or several ranks one between them (tensor parallelism). It is built once, with
empty weights; before each iteration the policy's weights are pushed into it, one parameter at a time, so that a sharded
policy is never whole in memory twice. On a GPU the engine sleeps while the policy trains, which gives its memory back.
"""

import copy
import os
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import PreTrainedModel

from rence_lightning.errors import EngineError, UserError
from rence_lightning.rollouts.engine import (
    EngineProgress,
    GroupFinished,
    Rollout,
    Sampling,
    end_of_sequence_ids,
    gathered,
)
from rence_lightning.rollouts.vllm_host import check_installed, failures, on_gpu, torchrun_variables, undisturbed

CPU_CACHE_BYTES = 2**30
"""Keys and values on a CPU, where vLLM's own default is nearly all of the main memory."""


class VLLMEngine:
    """Paged, continuously batched sampling by vLLM.

    Log-probabilities are at the sampling temperature; unlike those of `TransformersEngine`, with top-p below 1 they are
    of the truncated distribution.

    Args:
        dtype: The engine computes in this (default: the policy's own). In bfloat16 its log-probabilities differ from
            those of a float32 trainer by about 1e-2 a token.
        max_model_len: Tokens of prompt and response together (default: the policy's context).
        max_sequences: Responses sampled at a time.
        tensor_parallel_size: Ranks, next to one another and on one node, that hold an engine's weights between them:
            for a policy that does not fit on one GPU beside its keys and values.
        gpu_memory_utilization: Share of a GPU's memory for the engine: its weights, and keys and values.
        kv_cache_memory_bytes: Memory for keys and values, in place of that share (default on a CPU: 1 GiB).
        sleep: On a GPU, free the engine's memory while the policy trains.
        enforce_eager: No CUDA graphs: starts faster, samples slower.
        settings: Further arguments of `vllm.LLM`, as they are.

    Raises:
        UserError: vLLM is missing or too old, or a setting is impossible.
    """

    def __init__(
        self,
        dtype: Literal["float32", "bfloat16"] | None = None,
        max_model_len: int | None = None,
        max_sequences: int = 256,
        tensor_parallel_size: int = 1,
        gpu_memory_utilization: float = 0.5,
        kv_cache_memory_bytes: int | None = None,
        sleep: bool = True,
        enforce_eager: bool = False,
        settings: dict[str, Any] | None = None,
    ) -> None:
        if max_sequences < 1:
            raise UserError(f"engine: max_sequences is {max_sequences}, it must be >= 1")
        if not 0 < gpu_memory_utilization < 1:
            raise UserError(f"engine: gpu_memory_utilization is {gpu_memory_utilization}, it must be in (0, 1)")
        if tensor_parallel_size < 1:
            raise UserError(f"engine: tensor_parallel_size is {tensor_parallel_size}, it must be >= 1")
        check_installed()
        self.dtype = dtype
        self.max_model_len = max_model_len
        self.max_sequences = max_sequences
        self.tensor_parallel_size = tensor_parallel_size
        self.gpu_memory_utilization = gpu_memory_utilization
        self.kv_cache_memory_bytes = kv_cache_memory_bytes
        self.sleep = sleep
        self.enforce_eager = enforce_eager
        self.settings = settings or {}
        self._llm: Any = None
        self._asleep = False
        self._end_ids: list[int] = []
        self._partners: dist.ProcessGroup | None = None

    # ---- weights ----------------------------------------------------------------------------------------------------

    def sync(self, policy: "object") -> None:
        model: PreTrainedModel = policy.model  # type: ignore[attr-defined]
        device: torch.device = policy.compute_device  # type: ignore[attr-defined]
        with undisturbed():
            if self._llm is None:
                self._llm = self._build(model, device)
                self._end_ids = end_of_sequence_ids(model)
            if self._asleep:
                torch.cuda.empty_cache()  # what training left in torch's own cache is room that the engine needs
                self._llm.wake_up(tags=["weights"])
            weights = _weights(model, device, self._dtype(model))
            try:
                with failures("taking over the policy's weights"):
                    self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
            finally:
                for _ in weights:  # where an engine gave up, the other ranks still wait for this one's shards
                    pass
            if self._asleep:
                self._llm.wake_up(tags=["kv_cache"])
                self._asleep = False
            # Keys and values of shared prompts are the old weights'.
            if not self._llm.reset_prefix_cache():
                raise RuntimeError("vLLM still has requests running while the policy's weights are pushed")

    def release(self) -> None:
        """Puts the engine to sleep, on a GPU: its weights are dropped, for the next `sync` pushes new ones."""
        if self._llm is not None and self.sleep and on_gpu():
            self._llm.sleep(level=2)
            self._asleep = True

    def _dtype(self, model: PreTrainedModel) -> torch.dtype:
        return model.dtype if self.dtype is None else getattr(torch, self.dtype)

    def _build(self, model: PreTrainedModel, device: torch.device) -> Any:
        """The engine, from the policy's configuration alone."""
        if not dist.is_initialized() and device.index:
            raise UserError(
                f"engine: vLLM alone takes the first GPU, but the policy is on {device}; choose the GPU with "
                "CUDA_VISIBLE_DEVICES in place of trainer.devices"
            )
        # In its own process the engine could not share this one's GPU memory and distributed set-up.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        # Its warnings are of what this engine has settled; its errors dump the whole queue and are raised besides.
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "CRITICAL")
        from vllm import LLM

        settings: dict[str, Any] = {
            "dtype": str(self._dtype(model)).removeprefix("torch."),
            "runner": "generate",
            "load_format": "dummy",
            "skip_tokenizer_init": True,
            "max_num_seqs": self.max_sequences,
            "logprobs_mode": "processed_logprobs",  # at the temperature that was sampled at
            "enforce_eager": self.enforce_eager or not on_gpu(),
        }
        if dist.is_initialized():  # the ranks are there already, and each has its device
            settings["distributed_executor_backend"] = "external_launcher"
        if self.tensor_parallel_size > 1:
            settings["tensor_parallel_size"] = self.tensor_parallel_size
            self._partners = self._meet_partners()
        if self.max_model_len is not None:
            settings["max_model_len"] = self.max_model_len
        if on_gpu():
            settings |= {"gpu_memory_utilization": self.gpu_memory_utilization, "enable_sleep_mode": self.sleep}
        else:  # a prompt cut into chunks takes a random state back, which vLLM 0.32 cannot do on a CPU
            settings["enable_chunked_prefill"] = False
        if not on_gpu() or self.kv_cache_memory_bytes is not None:
            settings["kv_cache_memory_bytes"] = self.kv_cache_memory_bytes or CPU_CACHE_BYTES
        config = copy.deepcopy(model.config)
        config.architectures = [type(model).__name__]  # a model made in memory does not name it
        with tempfile.TemporaryDirectory() as folder, torchrun_variables(device):
            config.save_pretrained(folder)
            try:
                return LLM(folder, **{**settings, **self.settings})
            except (ValueError, TypeError, RuntimeError) as error:
                reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                raise UserError(f"engine: vLLM does not start: {reason}") from error

    def _meet_partners(self) -> dist.ProcessGroup:
        """The ranks that share this rank's engine."""
        size, world = self.tensor_parallel_size, dist.get_world_size() if dist.is_initialized() else 1
        if world % size:
            raise UserError(
                f"engine: tensor_parallel_size {size} does not divide the {world} processes of the run; choose another"
            )
        ranks = [list(range(first, first + size)) for first in range(0, world, size)]
        mine, _ = dist.new_subgroups_by_enumeration(ranks)
        assert mine is not None
        return mine

    # ---- sampling ---------------------------------------------------------------------------------------------------

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        group_size: int,
        sampling: Sampling,
        seeds: Sequence[int],
        progress: EngineProgress | None = None,
        finished: GroupFinished | None = None,
    ) -> list[list[Rollout]]:
        if self._llm is None or self._asleep:
            raise RuntimeError("the engine has no weights: call sync(policy) before generate()")
        if self._partners is None:
            return self._generate(prompts, group_size, sampling, seeds, range(len(prompts)), progress, finished)
        # Partners compute every token together, so each must ask for all of their prompts, in the same order.
        shares: list[Any] = [None] * self.tensor_parallel_size
        dist.all_gather_object(shares, (list(prompts), list(seeds)), group=self._partners)
        place = dist.get_rank(self._partners)
        first = sum(len(share[0]) for share in shares[:place])
        mine = range(first, first + len(prompts))
        all_prompts = [prompt for share in shares for prompt in share[0]]
        all_seeds = [seed for share in shares for seed in share[1]]
        groups = self._generate(all_prompts, group_size, sampling, all_seeds, mine, progress, finished)
        return [groups[index] for index in mine]

    def _generate(
        self,
        prompts: Sequence[Sequence[int]],
        group_size: int,
        sampling: Sampling,
        seeds: Sequence[int],
        mine: range,
        progress: EngineProgress | None,
        finished: GroupFinished | None,
    ) -> list[list[Rollout]]:
        """Responses to all prompts; progress and finished are told of `mine`, and count from their first."""
        self._check_lengths(prompts, sampling)
        engine = self._llm.llm_engine
        groups: list[list[Rollout]] = [[] for _ in prompts]
        with undisturbed():
            for index, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
                engine.add_request(
                    str(index), {"prompt_token_ids": list(prompt)}, self._sampling_params(group_size, sampling, seed)
                )
            try:
                while engine.has_unfinished_requests():
                    with failures("sampling"):
                        outputs = engine.step()
                    for output in outputs:
                        groups[int(output.request_id)] = group = _group(output, group_size)
                        if int(output.request_id) not in mine:
                            continue
                        if progress is not None:
                            progress(group_size, sum(len(rollout.token_ids) for rollout in group))
                        if finished is not None:
                            finished(int(output.request_id) - mine.start, group)
            except BaseException:  # what stays queued would come back in the next call
                with suppress(Exception):  # a dead engine takes no orders
                    engine.abort_request([str(index) for index in range(len(prompts))])
                raise
        return groups

    def _sampling_params(self, group_size: int, sampling: Sampling, seed: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            n=group_size if sampling.temperature > 0 else 1,  # greedy responses are all the same one
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_response_tokens,
            seed=seed,  # the responses of a group count on from it
            logprobs=0,  # of the sampled token
            stop_token_ids=self._end_ids,
            ignore_eos=True,  # the policy's end tokens are the list above
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _check_lengths(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> None:
        limit = self._llm.model_config.max_model_len
        longest = max(map(len, prompts), default=0)
        if longest + sampling.max_response_tokens > limit:
            raise UserError(
                f"engine: a prompt of {longest} tokens and max_response_tokens {sampling.max_response_tokens} are more "
                f"than max_model_len {limit}; raise engine.max_model_len"
            )


def _group(output: Any, group_size: int) -> list[Rollout]:
    """The rollouts of one request's output."""
    rollouts = []
    for completion in sorted(output.outputs, key=lambda completion: completion.index):
        if completion.finish_reason not in ("stop", "length"):
            raise EngineError(f"vLLM ended a response with {completion.finish_reason!r}")
        log_probs = [step[token].logprob for token, step in zip(completion.token_ids, completion.logprobs, strict=True)]
        rollouts.append(Rollout(array("i", completion.token_ids), array("f", log_probs), completion.finish_reason))
    return rollouts if len(rollouts) == group_size else rollouts * group_size


@torch.no_grad()
def _weights(model: PreTrainedModel, device: torch.device, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Each parameter, whole, in turn; tied ones under both of their names.

    A tied output projection must be sent as well: on a CPU the engine holds a repacked copy of it, and would keep that.
    """
    for name, parameter in model.named_parameters(remove_duplicate=False):
        yield name, gathered(parameter, device, dtype)
