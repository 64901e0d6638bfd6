"""Sampling through the Hugging Face model itself: no server and no optional package; the default of the demo.

Each prompt is read once, and its key-value cache is repeated for the K samples of its group. Finished sequences leave
the batch at once. Each response draws its random numbers from the seed of its prompt, one uniform number per token, so
that the sampled tokens do not depend on the batch in which a prompt is processed.
"""

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from rence_lightning.errors import UserError
from rence_lightning.rollouts.engine import (
    EngineProgress,
    FinishReason,
    GroupFinished,
    Rollout,
    SampledPolicy,
    Sampling,
    end_of_sequence_ids,
    gathered,
)

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel


class TransformersEngine:
    """Batched sampling with a key-value cache through the policy's own Hugging Face model.

    It reads the trainer's weights in place, without a second copy in memory. Only where the policy is sharded does each
    process keep a whole copy, refreshed before each iteration, because processes sample for different lengths of time.

    Args:
        max_sequences: Number of responses sampled at a time (prompts times group size), which bounds the memory of the
            key-value cache.
        copy_dtype: Data type of the whole copy that each process keeps of a sharded policy, and of its key-value cache
            (default: that of the policy). In bfloat16 both take half the memory of float32.
    """

    def __init__(self, max_sequences: int = 256, copy_dtype: Literal["float32", "bfloat16"] | None = None) -> None:
        if max_sequences < 1:
            raise UserError(f"engine: max_sequences is {max_sequences}, it must be >= 1")
        self.max_sequences = max_sequences
        self.copy_dtype = copy_dtype
        self._model: PreTrainedModel | None = None

    def sync(self, policy: SampledPolicy) -> None:
        if any(isinstance(parameter, DTensor) for parameter in policy.model.parameters()):
            self._gather(policy.model, policy.compute_device)
        else:
            self._model = policy.model

    @torch.no_grad()
    def _gather(self, model: "PreTrainedModel", device: torch.device) -> None:
        """Copies the weights of a sharded policy into a whole model of this process, one parameter at a time."""
        from transformers import AutoModelForCausalLM

        if self._model is None:
            dtype = model.dtype if self.copy_dtype is None else getattr(torch, self.copy_dtype)
            with torch.device(device):
                self._model = AutoModelForCausalLM.from_config(model.config, dtype=dtype).requires_grad_(False)
            self._model.generation_config = model.generation_config
        for whole, shard in zip(self._model.parameters(), model.parameters(), strict=True):
            whole.copy_(gathered(shard, device, whole.dtype))

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        group_size: int,
        sampling: Sampling,
        seeds: Sequence[int],
        progress: EngineProgress | None = None,
        finished: GroupFinished | None = None,
    ) -> list[list[Rollout]]:
        if self._model is None:
            raise RuntimeError("the engine has no policy yet: call sync(policy) before generate()")
        groups: list[list[Rollout]] = [[] for _ in prompts]
        training = self._model.training
        self._model.eval()
        # Prompts of similar length share a batch, which needs little padding and does not change the result.
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        step = max(1, self.max_sequences // group_size)
        for start in range(0, len(order), step):
            chosen = order[start : start + step]
            batch = _Decoding(
                self._model, [prompts[i] for i in chosen], group_size, sampling, [seeds[i] for i in chosen]
            )
            for index, group in zip(chosen, batch.run(progress), strict=True):
                groups[index] = group
                if finished is not None:
                    finished(index, group)
        self._model.train(training)
        return groups

    def release(self) -> None:
        """Does nothing: the weights belong to the trainer, and the key-value cache is freed after each batch."""


class _Decoding:
    """The decoding of one batch of prompts. `rows` = prompts * group_size, the responses of a prompt adjacent."""

    def __init__(
        self,
        model: "PreTrainedModel",
        prompts: list[Sequence[int]],
        group_size: int,
        sampling: Sampling,
        seeds: list[int],
    ) -> None:
        self.model = model
        self.sampling = sampling
        self.group_size = group_size
        self.device = model.device
        self.end_ids = end_of_sequence_ids(model)
        self.uniforms = torch.cat([_uniforms(seed, group_size, sampling.max_response_tokens) for seed in seeds])
        self.rows = len(prompts) * group_size
        self.prompts = prompts

    def run(self, progress: EngineProgress | None) -> list[list[Rollout]]:
        logits, cache, mask, position = self._read_prompts()
        alive = torch.arange(self.rows)  # the rows of the sequences that are still in the batch
        end_ids = torch.tensor(self.end_ids, device=self.device)
        uniforms = self.uniforms.to(self.device)
        tokens = [array("i") for _ in range(self.rows)]
        log_probs = [array("f") for _ in range(self.rows)]
        stopped = [False] * self.rows
        for step in range(self.sampling.max_response_tokens):
            token, log_prob = sample(logits, uniforms[alive, step], self.sampling)
            ended = torch.isin(token, end_ids)
            for row, one_token, one_log_prob, end in zip(
                alive.tolist(), token.tolist(), log_prob.tolist(), ended.tolist(), strict=True
            ):
                tokens[row].append(one_token)
                log_probs[row].append(one_log_prob)
                stopped[row] = end
            if progress is not None:
                progress(int(ended.sum()), len(token))
            if ended.any():
                stay = (~ended).nonzero().squeeze(-1)
                alive, token, position = alive[stay.cpu()], token[stay], position[stay]
                mask = None if mask is None else mask[stay]
                cache.batch_select_indices(stay)
            if len(alive) == 0 or step + 1 == self.sampling.max_response_tokens:
                break
            position = position + 1
            mask = None if mask is None else torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            logits = self._forward(token.unsqueeze(1), mask, position.unsqueeze(1), cache)
        if progress is not None:
            progress(len(alive), 0)  # responses cut at the limit
        rollouts = [
            Rollout(ids, lps, _finish_reason(end)) for ids, lps, end in zip(tokens, log_probs, stopped, strict=True)
        ]
        return [rollouts[i : i + self.group_size] for i in range(0, self.rows, self.group_size)]

    def _read_prompts(self) -> "tuple[Tensor, DynamicCache, Tensor | None, Tensor]":
        """Logits `(rows, vocab)` after each prompt, the cache, the attention mask (None without padding), and the
        position `(rows,)` of each prompt's last token. Prompts are padded on the left."""
        from transformers import DynamicCache

        lengths = torch.tensor([len(prompt) for prompt in self.prompts])
        longest = int(lengths.max())
        input_ids = torch.zeros(len(self.prompts), longest, dtype=torch.long)
        for row, prompt in enumerate(self.prompts):
            input_ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        padding = torch.arange(longest) < (longest - lengths).unsqueeze(1)
        positions = (torch.arange(longest) - (longest - lengths).unsqueeze(1)).clamp(min=0)
        mask = (~padding).long().to(self.device) if padding.any() else None
        cache = DynamicCache(config=self.model.config)
        logits = self._forward(input_ids.to(self.device), mask, positions.to(self.device), cache)
        cache.batch_repeat_interleave(self.group_size)
        repeat = (lengths - 1).to(self.device).repeat_interleave(self.group_size)
        mask = None if mask is None else mask.repeat_interleave(self.group_size, dim=0)
        return logits.repeat_interleave(self.group_size, dim=0), cache, mask, repeat

    def _forward(self, input_ids: Tensor, mask: Tensor | None, positions: Tensor, cache: "DynamicCache") -> Tensor:
        output = self.model(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1]


def sample(logits: Tensor, uniform: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Draws one token per row by inverting the cumulative distribution at `uniform`.

    Args:
        logits: Logits of the next token, `(rows, vocab)`.
        uniform: Random numbers in [0, 1), `(rows,)` in float64.
        sampling: Temperature and top-p.

    Returns:
        Token ids `(rows,)`, and their log-probabilities `(rows,)` at the temperature, before top-p truncation.
    """
    logits = logits.float()
    if sampling.temperature == 0:
        token = logits.argmax(-1)
        return token, logits.log_softmax(-1).gather(-1, token.unsqueeze(-1)).squeeze(-1)
    log_probs = (logits / sampling.temperature).log_softmax(-1)
    # In float64, because a float32 sum over a large vocabulary would lose the small probabilities of the tail.
    probs = log_probs.double().exp()
    if sampling.top_p < 1:
        probs, order = probs.sort(-1, descending=True)
        before = probs.cumsum(-1) - probs
        probs = probs.masked_fill(before >= sampling.top_p, 0.0)
    cumulative = probs.cumsum(-1)
    target = uniform.unsqueeze(-1) * cumulative[:, -1:]
    token = torch.searchsorted(cumulative, target, right=True).clamp(max=logits.shape[-1] - 1)
    if sampling.top_p < 1:
        token = order.gather(-1, token)
    return token.squeeze(-1), log_probs.gather(-1, token).squeeze(-1)


def _uniforms(seed: int, group_size: int, tokens: int) -> Tensor:
    """Uniform numbers `(group_size, tokens)` in [0, 1), float64, drawn on the CPU so that all devices sample alike."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(group_size, tokens, generator=generator, dtype=torch.float64)


def _finish_reason(ended: bool) -> FinishReason:
    return "stop" if ended else "length"
