"""The stream of responses: which requests are taken, which rows are sampled, and which have ended.

Each response has a row in tensors whose columns are steps: all rows write their tokens to the same column, and each
knows in which it began. Rows that have ended stay until they are a quarter of all; then the rest moves together, and
requests are taken for the room.
"""

from array import array
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor

from rence_lightning.rollouts.decoding import GeneralDecoder, SharedPromptDecoder
from rence_lightning.rollouts.draw import sample, uniforms
from rence_lightning.rollouts.engine import FinishedGroup, Request, Rollout, Sampling, SamplingStep
from rence_lightning.rollouts.intake import Intake

CROWDED = 4
"""Rows are rearranged when one in this many has ended: more often costs copies, more seldom idle rows."""


@dataclass(eq=False)
class _Group:
    """A request that was taken, and its responses so far."""

    index: int
    request: Request
    rollouts: dict[int, Rollout] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        return len(self.rollouts) == self.request.group_size


@dataclass
class _Row:
    """A response that is being sampled."""

    group: _Group
    number: int  # in the group
    start: int  # its first column
    last: int
    alive: bool = True


class Slots:
    """Rows for `max_num_seqs` responses at a time (a single request may have more), and the requests that fill them."""

    def __init__(
        self,
        decoder: SharedPromptDecoder | GeneralDecoder,
        requests: Iterable[Request],
        cancelled: Container[int],
        max_num_seqs: int,
        end_ids: list[int],
        device: torch.device,
    ) -> None:
        self._decoder = decoder
        self._intake = Intake(requests, cancelled)
        self._cancelled = cancelled
        self._max_num_seqs = max_num_seqs
        self._end_ids = torch.tensor(end_ids, device=device)
        self._device = device
        self._arrivals: list[_Group] = []  # taken, not in rows yet
        self._groups: list[_Group] = []  # those with rows
        self._rows: list[_Row] = []
        self._live = 0  # number of rows that are alive
        self._column = 0  # the last one that is written
        self._tokens = torch.empty(0, 0, dtype=torch.int32, device=device)
        self._log_probs = torch.empty(0, 0, device=device)
        self._uniforms = torch.empty(0, 0, dtype=torch.float64, device=device)
        self._last_columns = torch.empty(0, dtype=torch.long, device=device)
        self._samplings: list[tuple[Sampling, slice]] = []
        self._finished: list[FinishedGroup] = []  # since the last step, as the two counts
        self._responses_ended = self._tokens_drawn = 0

    def take(self) -> bool:
        """Ends what was cancelled, and takes requests if it is time to. Returns False when nothing is left to do."""
        ended = [group for group in self._groups if group.index in self._cancelled]
        for row in self._rows if ended else []:
            if row.alive and row.group in ended:
                row.alive = False
                self._live -= 1
        self._groups = [group for group in self._groups if not group.finished and group not in ended]
        if self._crowded and (self._decoder.accepts_more or self._live == 0):
            taken = self._intake.take(self._max_num_seqs - self._live, idle=self._live == 0)
            self._arrivals += [_Group(number, request) for number, request in taken]
        return self._live > 0 or bool(self._arrivals)

    @property
    def _crowded(self) -> bool:
        return CROWDED * (len(self._rows) - self._live) >= len(self._rows)

    def advance(self) -> SamplingStep:
        """Samples a token of each row, and returns what has happened since the last call."""
        if self._arrivals or (self._crowded and self._live):
            self._rearrange()
        if self._live:
            logits = self._decoder.step(self._tokens[:, self._column].long())
            self._column += 1
            self._draw(logits, self._samplings, 0, self._live)
        step = SamplingStep(self._responses_ended, self._tokens_drawn, self._finished)
        self._responses_ended, self._tokens_drawn, self._finished = 0, 0, []
        return step

    def _rearrange(self) -> None:
        """Keeps the rows that are alive, gives rows to the groups that arrived, and samples their first tokens."""
        kept = [number for number, row in enumerate(self._rows) if row.alive]
        drop = min([self._rows[number].start for number in kept], default=self._column)
        arrivals, self._arrivals = self._arrivals, []
        self._groups += arrivals
        counts = [group.request.group_size for group in arrivals]
        logits = self._decoder.arrange(kept, drop, [group.request.prompt for group in arrivals], counts)
        self._rows = [self._rows[number] for number in kept]
        self._column -= drop
        for row in self._rows:
            row.start, row.last = row.start - drop, row.last - drop
        for group in arrivals:
            last = self._column + group.request.sampling.max_response_tokens - 1
            self._rows += [_Row(group, number, self._column, last) for number in range(group.request.group_size)]
        self._move(torch.tensor(kept, dtype=torch.long, device=self._device), drop, arrivals)
        self._samplings = _runs(self._rows)
        if arrivals:
            self._live += sum(counts)
            logits = logits.repeat_interleave(torch.tensor(counts, device=self._device), dim=0)
            self._draw(logits, _runs(self._rows[len(kept) :]), len(kept), sum(counts))

    def _move(self, kept: Tensor, drop: int, arrivals: list[_Group]) -> None:
        """Moves what was written of the kept rows to new tensors, with room for the new rows' tokens."""
        width = max(row.last for row in self._rows) + 1

        def moved(old: Tensor) -> Tensor:
            new = old.new_zeros(len(self._rows), width)
            columns = min(width, old.shape[1] - drop)
            new[: len(kept), :columns] = old[kept, drop : drop + columns]
            return new

        self._tokens, self._log_probs, self._uniforms = map(moved, (self._tokens, self._log_probs, self._uniforms))
        self._last_columns = torch.tensor([row.last for row in self._rows], device=self._device)
        first = len(kept)
        for request in (group.request for group in arrivals):
            numbers = uniforms(request.seed, request.group_size, request.sampling.max_response_tokens)
            last, width = first + request.group_size, numbers.shape[1]
            self._uniforms[first:last, self._column : self._column + width] = numbers.to(self._device)
            first = last

    def _draw(self, logits: Tensor, samplings: list[tuple[Sampling, slice]], first: int, live: int) -> None:
        """Samples the rows from `first` on, of which `live` are alive, into the current column; ends those that end."""
        self._tokens_drawn += live
        uniform = self._uniforms[first:, self._column]
        drawn = [sample(logits[rows], uniform[rows], sampling) for sampling, rows in samplings]
        tokens, log_probs = (torch.cat(each) for each in zip(*drawn, strict=True))
        self._tokens[first:, self._column] = tokens
        self._log_probs[first:, self._column] = log_probs
        ended = torch.isin(tokens, self._end_ids) | (self._last_columns[first:] == self._column)
        numbers = [first + number for number in ended.nonzero().squeeze(-1).tolist()]
        if numbers := [number for number in numbers if self._rows[number].alive]:
            self._end(numbers)

    def _end(self, numbers: list[int]) -> None:
        """Takes the responses of rows that have ended out of the tensors."""
        written = slice(0, self._column + 1)
        tokens, log_probs = (each[numbers, written].cpu().numpy() for each in (self._tokens, self._log_probs))
        end_ids = self._end_ids.tolist()
        for place, number in enumerate(numbers):
            row = self._rows[number]
            row.alive = False
            row.group.rollouts[row.number] = Rollout(
                array("i", tokens[place, row.start :].tobytes()),
                array("f", log_probs[place, row.start :].tobytes()),
                "stop" if tokens[place, -1] in end_ids else "length",
            )
            if row.group.finished:
                rollouts = [row.group.rollouts[number] for number in range(row.group.request.group_size)]
                self._finished.append(FinishedGroup(row.group.index, rollouts))
        self._live -= len(numbers)
        self._responses_ended += len(numbers)


def _runs(rows: list[_Row]) -> list[tuple[Sampling, slice]]:
    """The runs of adjacent rows that are sampled alike."""
    runs, first = [], 0
    for sampling, alike in groupby(rows, key=lambda row: row.group.request.sampling):
        end = first + len(list(alike))
        runs.append((sampling, slice(first, end)))
        first = end
    return runs
