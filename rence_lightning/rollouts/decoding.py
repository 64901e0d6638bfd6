"""The forward passes of sampling: prompts in, then one token of each response at a time, logits out.

A *row* is a response that is being sampled. Those of a prompt are adjacent, and prompts are in the order of addition.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from rence_lightning.errors import UserError, one_line
from rence_lightning.policy.attention import implementation, special_attention
from rence_lightning.rollouts.shared_prompts import (
    GROWTH,
    NAME,
    LayerCache,
    PromptPass,
    ResponsePass,
    UnsupportedAttentionError,
    attend,
    resized,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CACHES = ("cache", "past_key_values", "cache_params")
"""Names under which models return their cache, and take it: "cache" since transformers 5.24."""

PROMPT_TOKENS = 2**14
"""Largest number of prompt tokens, with padding, in a forward pass; it bounds the memory of activations."""


class SharedPromptDecoder:
    """Decoding with the keys and values of each prompt once, in buffers that are written in place."""

    accepts_more = True
    """Whether prompts can be added while rows are being sampled, and rows wait while others are."""

    def __init__(self, model: "PreTrainedModel") -> None:
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        ALL_ATTENTION_FUNCTIONS[NAME] = attend
        self._model = model
        self._state = ResponsePass({}, None, None, torch.empty(0, dtype=torch.long), 0)
        self._prompt_lengths: list[int] = []
        self._prompt_of: list[int] = []  # of each row
        self._hidden = torch.empty(0, 0, dtype=torch.bool)  # columns in which a row has no token; none after the last
        self._positions = torch.empty(0, dtype=torch.long, device=model.device)  # of each row's next token

    def arrange(self, kept: list[int], drop: int, prompts: list[Sequence[int]], counts: list[int]) -> Tensor:
        """Keeps some of the rows, and adds rows after them.

        Args:
            kept: Numbers of the rows that are kept, ascending.
            drop: Number of leading columns to drop, in which no kept row has a token. A column is a call of `step`.
            prompts: Prompts to add.
            counts: Numbers of rows of these prompts.

        Returns:
            Logits of the first token after each added prompt, `(prompts, vocab)`; empty if none is added.
        """
        passes, logits = self._read(prompts)
        device, length = self._model.device, self._state.length - drop
        kept_prompts = sorted({self._prompt_of[row] for row in kept})
        place = {prompt: number for number, prompt in enumerate(kept_prompts)}
        added = [len(kept_prompts) + number for number, count in enumerate(counts) for _ in range(count)]
        self._prompt_of = [place[self._prompt_of[row]] for row in kept] + added
        self._prompt_lengths = [self._prompt_lengths[prompt] for prompt in kept_prompts] + [len(p) for p in prompts]
        hidden = self._hidden[torch.tensor(kept, dtype=torch.long), drop:]
        self._hidden = torch.cat([pad(hidden, (0, length - hidden.shape[1])), hidden.new_ones(len(added), length)])
        fresh = torch.tensor([self._prompt_lengths[prompt] for prompt in added], dtype=torch.long, device=device)
        rows = torch.tensor(kept, dtype=torch.long, device=device)
        self._positions = torch.cat([self._positions[rows], fresh])
        layers = self._rebuilt(rows, drop, torch.tensor(kept_prompts, dtype=torch.long, device=device), passes)
        some = next(iter(layers.values()))
        self._state = ResponsePass(layers, self._bias(some.prompt_keys), *self._grid(), length)
        return logits

    def step(self, tokens: Tensor, waiting: Sequence[int] = ()) -> Tensor:
        """Reads the next token of each row, `(rows,)`, and returns the logits of the one after it, `(rows, vocab)`.
        Those of rows that wait, which read nothing, are of no use."""
        logits = self._forward(tokens.unsqueeze(1), self._positions.unsqueeze(1), self._state)
        self._positions += 1
        if waiting:
            self._positions[waiting] -= 1
            self._hidden = pad(self._hidden, (0, self._state.length + 1 - self._hidden.shape[1]))
            self._hidden[waiting, -1] = True
            self._state.bias = self._bias(next(iter(self._state.layers.values())).prompt_keys)
        self._state.length += 1
        return logits

    def _forward(self, input_ids: Tensor, positions: Tensor, state: PromptPass | ResponsePass) -> Tensor:
        """Logits after the last token of each row, `(rows, vocab)`."""
        settings = {"use_cache": False, "logits_to_keep": 1, "forward_state": state}
        return self._model(input_ids=input_ids, position_ids=positions, **settings).logits[:, -1]

    def _read(self, prompts: list[Sequence[int]]) -> tuple[list[PromptPass], Tensor]:
        """The keys and values of prompts, in a few forward passes, and the logits after each prompt."""
        passes, logits = [], []
        for piece in _pieces(prompts):
            input_ids, _, positions = _padded(piece, self._model.device)
            passes.append(PromptPass([len(prompt) for prompt in piece], self._model.device))
            logits.append(self._forward(input_ids, positions, passes[-1]))
        return passes, torch.cat(logits) if logits else torch.empty(0)

    def _rebuilt(self, kept: Tensor, drop: int, prompts: Tensor, passes: list[PromptPass]) -> dict[int, LayerCache]:
        """The keys and values of the kept rows and prompts, then of new prompts. The old are freed layer by layer."""
        rows, longest = len(self._prompt_of), max(self._prompt_lengths)
        written = slice(drop, self._state.length)
        capacity = self._state.length - drop + GROWTH
        old, layers = self._state.layers, {}
        for layer in sorted(old or passes[0].keys):
            keys, values = ([each.keys.pop(layer) for each in passes], [each.values.pop(layer) for each in passes])
            if layer in old:
                cache = old.pop(layer)
                keys.insert(0, cache.prompt_keys[:, prompts])
                values.insert(0, cache.prompt_values[:, prompts])
                own = [resized(own, kept, written, rows, capacity) for own in (cache.keys, cache.values)]
            else:
                own = [each[0].new_empty(each[0].shape[0], rows, capacity, each[0].shape[3]) for each in (keys, values)]
            layers[layer] = LayerCache(_joined(keys, longest), _joined(values, longest), *own)
        return layers

    def _bias(self, prompt_keys: Tensor) -> Tensor | None:
        longest, device, dtype = prompt_keys.shape[2], prompt_keys.device, prompt_keys.dtype
        lengths = [self._prompt_lengths[prompt] for prompt in self._prompt_of]
        last = max((1 + column for column, hidden in enumerate(self._hidden.any(0).tolist()) if hidden), default=0)
        if min(lengths) == longest and last == 0:
            return None
        first = longest - torch.tensor(lengths, device=device).unsqueeze(1)
        hidden = [torch.arange(longest, device=device) < first, self._hidden[:, :last].to(device)]
        bias = torch.zeros(len(lengths), longest + last, device=device, dtype=dtype)
        return bias.masked_fill_(torch.cat(hidden, dim=1), -torch.inf)

    def _grid(self) -> tuple[Tensor | None, Tensor]:
        """The grid and the places of `ResponsePass`."""
        rows_of: list[list[int]] = [[] for _ in self._prompt_lengths]
        for row, prompt in enumerate(self._prompt_of):
            rows_of[prompt].append(row)
        most, device = max(map(len, rows_of)), self._model.device
        places = [prompt * most + place for prompt, rows in enumerate(rows_of) for place in range(len(rows))]
        filled = [row for rows in rows_of for row in rows + [0] * (most - len(rows))]
        even = min(map(len, rows_of)) == most
        return None if even else torch.tensor(filled, device=device), torch.tensor(places, device=device)


class GeneralDecoder:
    """The same with the model's own cache and masks. A prompt is read once, and what the cache holds of it is repeated
    for its rows; the cache is copied at each step."""

    accepts_more = False

    def __init__(self, model: "PreTrainedModel") -> None:
        self._model = model
        self._cache: dict[str, Any] = {}  # the model's cache under the name by which the model takes and returns it
        self._mask: Tensor | None = None
        self._positions = torch.empty(0, dtype=torch.long)

    def arrange(self, kept: list[int], drop: int, prompts: list[Sequence[int]], counts: list[int]) -> Tensor:
        device = self._model.device
        if not prompts:
            self._select(torch.tensor(kept, device=device))
            return torch.empty(0)
        assert not kept, "prompts cannot be added to a cache in use"
        input_ids, self._mask, positions = _padded(prompts, device)
        self._cache = {}
        logits = self._forward(input_ids, positions)
        self._positions = positions[:, -1]
        self._select(torch.arange(len(prompts), device=device).repeat_interleave(torch.tensor(counts, device=device)))
        return logits

    def step(self, tokens: Tensor, waiting: Sequence[int] = ()) -> Tensor:
        assert not waiting, "a cache of the model's own holds a token of each row at every step"
        self._positions = self._positions + 1
        if self._mask is not None:
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), 1)], dim=1)
        return self._forward(tokens.unsqueeze(1), self._positions.unsqueeze(1))

    def _select(self, rows: Tensor) -> None:
        from transformers import Cache

        if not self._cache:
            raise UserError("it returns no cache")
        (cache,) = self._cache.values()
        # Layers of linear attention and convolutions can only be reordered; a cache of a model's own may add to the
        # selection of rows and not to their order.
        own = type(cache).batch_select_indices is not Cache.batch_select_indices
        (cache.batch_select_indices if own else cache.reorder_cache)(rows)
        self._positions = self._positions[rows]
        self._mask = None if self._mask is None else self._mask[rows]

    def _forward(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        # A model says by itself what a step takes: Mamba, for example, takes no mask after the prompts.
        prepare: Any = self._model.prepare_inputs_for_generation
        inputs = prepare(
            input_ids,
            attention_mask=self._mask,
            position_ids=positions,
            use_cache=True,
            is_first_iteration=not self._cache,
            **self._cache,
        )
        output = self._model(**{**inputs, "logits_to_keep": 1})
        self._cache = next(({name: output[name]} for name in CACHES if output.get(name) is not None), {})
        return output.logits[:, -1]


def attention_of(model: "PreTrainedModel", share_prompts: bool) -> AbstractContextManager[None]:
    """The context in which a decoder's forward passes run."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    if share_prompts:
        return implementation(model, NAME)
    if model.config._attn_implementation in ALL_MASK_ATTENTION_FUNCTIONS:
        return nullcontext()
    # An implementation of one's own, such as that of the trainer's packed rows, gets no mask, and prompts are padded.
    return implementation(model, "sdpa")


Decoder = type[SharedPromptDecoder] | type[GeneralDecoder]


def decoder_for(model: "PreTrainedModel") -> Decoder:
    """The decoder that a model works with: tried on a few tokens. A warning says why it is the slower one, if it is.

    Raises:
        UserError: No decoder gives the logits of the model's own forward pass.
    """
    name, reason = type(model).__name__, special_attention(model)
    if not (reason := f"it {reason}" if reason else _difference(model, SharedPromptDecoder)):
        return SharedPromptDecoder
    if general := _difference(model, GeneralDecoder):
        raise UserError(f"engine: transformers cannot sample {name}: {general}; choose another model or engine")
    slower = "is sampled with its own cache, which is slower than sharing prompts"
    warnings.warn(f"{name} {slower}, because {reason}", stacklevel=2)
    return GeneralDecoder


def _difference(model: "PreTrainedModel", kind: Decoder) -> str:
    """What keeps a decoder from giving the logits of the model's own forward pass, apart from rounding; empty if
    nothing does. Prompts are of unequal lengths, and rows are kept and repeated."""
    tokens = [number % model.config.get_text_config().vocab_size for number in range(1, 8)]
    with attention_of(model, share_prompts=False):
        logits = model(input_ids=torch.tensor([tokens], device=model.device), use_cache=False).logits[0]
    decoder = kind(model)
    try:
        with attention_of(model, kind is SharedPromptDecoder):
            found = [decoder.arrange([], 0, [tokens[:5], tokens[:3]], [2, 1])]
            found.append(decoder.step(torch.tensor([tokens[5], tokens[5], tokens[3]], device=model.device)))
            decoder.arrange([1, 2], 0, [], [])
            found.append(decoder.step(torch.tensor([tokens[6], tokens[4]], device=model.device)))
    except Exception as error:  # a model's code may fail in any way
        if isinstance(error, torch.OutOfMemoryError):
            raise
        named = isinstance(error, UserError | UnsupportedAttentionError)
        return one_line(error) if named else f"it raises {type(error).__name__}: {one_line(error)}"
    both = torch.cat(found), logits[[4, 2, 5, 5, 3, 6, 4]]
    ours, expected = (each.float().nan_to_num(torch.nan, neginf=0.0) for each in both)  # -inf is never sampled
    half = torch.is_autocast_enabled(logits.device.type) or model.dtype in (torch.bfloat16, torch.float16)
    # Of whole rows: in half precision, rounding may send a token to another expert, which moves single logits a lot.
    limit = (0.2 if half else 1e-3) * (expected - expected.mean(-1, keepdim=True)).norm(dim=-1)
    if bool(((ours - expected).norm(dim=-1) <= limit).all()):
        return ""
    if expected.isnan().any():
        return "its logits are not finite, as where float16 overflows (bfloat16: trainer.precision bf16-mixed)"
    return "its logits, a token at a time, are not those of its forward pass"


def _padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor | None, Tensor]:
    """Token ids, attention mask (None without padding) and positions, `(prompts, longest)`, padded on the left."""
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    longest = int(lengths.max())
    input_ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        input_ids[row, longest - len(prompt) :] = torch.tensor(prompt)
    positions = torch.arange(longest) - (longest - lengths).unsqueeze(1)
    mask = (positions >= 0).long().to(device) if int(lengths.min()) < longest else None
    return input_ids.to(device), mask, positions.clamp(min=0).to(device)


def _pieces(prompts: list[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
    """The prompts in order, in pieces of at most `PROMPT_TOKENS` with padding, or of one prompt."""
    piece: list[Sequence[int]] = []
    for prompt in prompts:
        longest = max(len(prompt), *map(len, piece), 0)
        if piece and longest * (len(piece) + 1) > PROMPT_TOKENS:
            yield piece
            piece = []
        piece.append(prompt)
    if piece:
        yield piece


def _joined(parts: list[Tensor], longest: int) -> Tensor:
    """Keys or values `(key_heads, prompts, length, head_dim)` of passes, padded or cut on the left to the longest."""
    fitted = [part[:, :, max(0, part.shape[2] - longest) :] for part in parts]
    padded = [pad(part, (0, 0, longest - part.shape[2], 0)) for part in fitted]
    return torch.cat(padded, dim=1) if len(padded) > 1 else padded[0].contiguous()
