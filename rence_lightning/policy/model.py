"""The policy: a Hugging Face causal language model whose forward pass is the log-probabilities of response tokens."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rence_lightning.errors import UserError

LOGITS_PER_CHUNK = 2**26
"""Logits held at a time: 256 MiB in float32. All logits of a batch at once, `[rows, length, vocabulary]`, are what runs
out of memory first with long responses."""


class TokenScores(NamedTuple):
    """What a forward pass says of the response tokens.

    Attributes:
        log_probs: `(rows, tokens)`, log pi(token | prefix), in float32 or better; 0 on padding.
        entropy: `(rows, tokens)`, entropy of pi(. | prefix) in nats, 0 on padding; None unless asked for.
    """

    log_probs: Tensor
    entropy: Tensor | None


class Policy(nn.Module):
    """A causal language model and its tokenizer.

    The transformer runs once over the padded batch; the vocabulary projection runs over the response tokens alone, in
    chunks that are recomputed in the backward pass.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer

    @property
    def context_length(self) -> int | None:
        """Tokens of prompt and response together that the model was built for; None if its config does not say."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    @property
    def compute_device(self) -> torch.device:
        """Where forward passes run. Offloaded parameters rest in main memory, buffers never do."""
        return next(self.model.buffers(), next(self.model.parameters())).device

    def save_config(self, folder: Path) -> None:
        """Writes all of a Hugging Face folder but the weights: configurations and tokenizer."""
        self.model.config.save_pretrained(folder)
        if self.model.can_generate() and self.model.generation_config is not None:
            self.model.generation_config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def forward(
        self, input_ids: Tensor, response_mask: Tensor, temperature: float = 1.0, entropy: bool = False
    ) -> TokenScores:
        """Log-probabilities of the response tokens.

        Args:
            input_ids: `(rows, length)`, prompt then response, padded on the right. Attention is causal, so what stands
                to the right of a token cannot reach it, and no attention mask is needed.
            response_mask: `(rows, length)` bool, True on response tokens (EOS included): one run a row.
            temperature: Divides the logits: the log-probabilities are those of the distribution sampled from.
            entropy: Also return the entropy at each response token.
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

        Raises:
            UserError: The model does more than a linear projection after its last hidden state (soft-capped or scaled
                logits), which `forward` would get wrong.
        """
        input_ids = torch.arange(1, 9, device=self.model.device).unsqueeze(0)
        mask = torch.ones_like(input_ids, dtype=torch.bool)
        ours = self.forward(input_ids, mask).log_probs
        logits = self.model(input_ids=input_ids, use_cache=False).logits[:, :-1].float()
        theirs = logits.log_softmax(-1).gather(-1, input_ids[:, 1:, None]).squeeze(-1)
        tolerance = 1e-3 if self.model.dtype == torch.float32 else 0.2  # bf16 rounds logits of ~20 by 0.1
        if not torch.allclose(ours, theirs, atol=tolerance):
            raise UserError(
                f"policy: {type(self.model).__name__} transforms its logits after the output projection "
                "(soft-capping or scaling), which is not supported; choose another model"
            )


def _score_tokens(
    head: nn.Module, states: Tensor, targets: Tensor, temperature: float, entropy: bool
) -> tuple[Tensor, Tensor]:
    """`(tokens, hidden)` states and `(tokens,)` targets -> `(tokens,)` log-probabilities and entropies."""
    logits = head(states)
    # A softmax over a large vocabulary needs float32 at least; a float64 model keeps its precision.
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    normaliser = logits.logsumexp(-1)
    log_probs = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - normaliser
    if not entropy:
        return log_probs, log_probs.new_empty(0)
    return log_probs, normaliser - (logits.softmax(-1) * logits).sum(-1)


def _unflatten(values: Tensor, mask: Tensor) -> Tensor:
    """Values of the True places of `mask` `(rows, length)`, row by row -> `(rows, most in a row)`, padded with 0."""
    counts = mask.sum(-1)
    columns = torch.arange(int(counts.max()) if len(counts) else 0, device=mask.device)
    places = columns < counts.unsqueeze(1)
    return values.new_zeros(places.shape).masked_scatter(places, values)
