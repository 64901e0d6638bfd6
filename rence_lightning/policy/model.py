"""The policy: a Hugging Face causal language model whose forward pass is the log-probabilities of response tokens."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rence_lightning.errors import UserError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

LOGITS_PER_CHUNK = 2**26
"""Largest number of logits held at a time: 256 MiB in float32. With long responses, all logits of a batch together,
`[rows, length, vocabulary]`, would be the first tensor to exceed the memory."""


class TokenScores(NamedTuple):
    """The result of a forward pass for the response tokens.

    Attributes:
        log_probs: Log-probabilities log pi(token | prefix), `(rows, tokens)`, in float32 or better; 0 on padding.
        entropy: Entropies of pi(. | prefix) in nats, `(rows, tokens)`, 0 on padding; None unless requested.
    """

    log_probs: Tensor
    entropy: Tensor | None


class Policy(nn.Module):
    """A causal language model and its tokenizer.

    The transformer runs once over the padded batch. The vocabulary projection runs over the response tokens alone, in
    chunks that are recomputed in the backward pass.
    """

    def __init__(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer

    @property
    def context_length(self) -> int | None:
        """Largest number of tokens of prompt and response together; None if the model's config does not name it."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    @property
    def compute_device(self) -> torch.device:
        """Device of the forward passes. Offloaded parameters are in main memory, but buffers never are."""
        return next(self.model.buffers(), next(self.model.parameters())).device

    def save_config(self, folder: Path) -> None:
        """Writes a Hugging Face folder without the weights: the configurations and the tokenizer."""
        self.model.config.save_pretrained(folder)
        if self.model.can_generate() and self.model.generation_config is not None:
            self.model.generation_config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def forward(
        self, input_ids: Tensor, response_mask: Tensor, temperature: float = 1.0, entropy: bool = False
    ) -> TokenScores:
        """Log-probabilities of the response tokens.

        Args:
            input_ids: Token ids `(rows, length)` of prompt and response, padded on the right. No attention mask is
                needed, because attention is causal: padding on the right cannot influence a token.
            response_mask: Mask `(rows, length)` of bool, True on response tokens (EOS included), which are contiguous
                in each row.
            temperature: Divisor of the logits, so that the log-probabilities are those of the sampled distribution.
            entropy: Whether to return the entropy at each response token as well.
        """
        hidden = self.model.base_model(input_ids=input_ids, use_cache=False).last_hidden_state
        predicts = response_mask[:, 1:]  # the state before a token predicts it
        states, targets = hidden[:, :-1][predicts], input_ids[:, 1:][predicts]
        log_probs, entropies = self._project(states, targets, temperature, entropy)
        return TokenScores(_unflatten(log_probs, predicts), _unflatten(entropies, predicts) if entropy else None)

    def _project(self, states: Tensor, targets: Tensor, temperature: float, entropy: bool) -> tuple[Tensor, Tensor]:
        head = self.model.get_output_embeddings()
        chunk = max(1, LOGITS_PER_CHUNK // head.weight.shape[0])
        if len(states) <= chunk:
            return _score_tokens(head, states, targets, temperature, entropy)
        parts = [
            checkpoint(_score_tokens, head, s, t, temperature, entropy, use_reentrant=False)
            for s, t in zip(states.split(chunk), targets.split(chunk), strict=True)
        ]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    @torch.no_grad()
    def check_head(self) -> None:
        """Compares a few log-probabilities with the model's own logits.

        Attention is computed by the eager implementation, because the configured one (such as FlashAttention) may need
        a GPU, and the policy is checked on the device where it is loaded.

        Raises:
            UserError: The model does more than a linear projection after its last hidden state (soft-capped or scaled
                logits), which `forward` would get wrong.
        """
        input_ids = torch.arange(1, 9, device=self.model.device).unsqueeze(0)
        mask = torch.ones_like(input_ids, dtype=torch.bool)
        with _eager_attention(self.model):
            ours = self.forward(input_ids, mask).log_probs
            logits = self.model(input_ids=input_ids, use_cache=False).logits[:, :-1].float()
        theirs = logits.log_softmax(-1).gather(-1, input_ids[:, 1:, None]).squeeze(-1)
        tolerance = 1e-3 if self.model.dtype == torch.float32 else 0.2  # bfloat16 rounds logits of about 20 by 0.1
        if not torch.allclose(ours, theirs, atol=tolerance):
            raise UserError(
                f"policy: {type(self.model).__name__} transforms its logits after the output projection "
                "(soft-capping or scaling), which is not supported; choose another model"
            )


@contextmanager
def _eager_attention(model: "PreTrainedModel") -> Iterator[None]:
    """Switches a model to the eager attention implementation, where it can be switched, and back."""
    # Not `set_attn_implementation`: switching back would check the implementation again, or load its kernel again.
    configs = list(_with_parts(model.config)) if model._can_set_attn_implementation() else []
    before = [config._attn_implementation for config in configs]
    try:
        for config in configs:
            config._attn_implementation = "eager"
        yield
    finally:
        for config, implementation in zip(configs, before, strict=True):  # each part after the whole, which sets both
            config._attn_implementation = implementation


def _with_parts(config: "PretrainedConfig") -> "Iterator[PretrainedConfig]":
    """A configuration and, after it, the configurations of its parts."""
    yield config
    for name in config.sub_configs:
        if (part := getattr(config, name, None)) is not None:
            yield from _with_parts(part)


def _score_tokens(
    head: nn.Module, states: Tensor, targets: Tensor, temperature: float, entropy: bool
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies `(tokens,)` of states `(tokens, hidden)` and targets `(tokens,)`."""
    logits = head(states)
    # A softmax over a large vocabulary needs at least float32; a float64 model keeps its precision.
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    normaliser = logits.logsumexp(-1)
    log_probs = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - normaliser
    if not entropy:
        return log_probs, log_probs.new_empty(0)
    return log_probs, normaliser - (logits.softmax(-1) * logits).sum(-1)


def _unflatten(values: Tensor, mask: Tensor) -> Tensor:
    """The values at the True positions of `mask` `(rows, length)`, by row, as `(rows, most per row)` padded with 0."""
    counts = mask.sum(-1)
    columns = torch.arange(int(counts.max()) if len(counts) else 0, device=mask.device)
    places = columns < counts.unsqueeze(1)
    return values.new_zeros(places.shape).masked_scatter(places, values)
