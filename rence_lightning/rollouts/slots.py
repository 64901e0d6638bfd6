"""The stream of responses: which requests are taken, which rows are sampled, and which have ended.

Each response has a row in tensors whose columns are steps: all rows write their tokens to the same column, and each row
knows in which column it began. Rows whose response has ended stay until a quarter of all rows is like that; then the
rest moves together, and requests are taken for the room.
"""

from array import array
from collections.abc import Container, Iterable
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from rence_lightning.rollouts.decoding import Decoder
from rence_lightning.rollouts.draw import sample, uniforms
from rence_lightning.rollouts.engine import FinishedGroup, Request, Rollout, Sampling, SamplingStep

CROWDED = 4
"""Rows are rearranged when one in this many has ended: more often costs copies, more seldom idle rows."""


class _Group:
    """A request that was taken, and its responses so far."""

    def __init__(self, index: int, request: Request) -> None:
        self.index = index
        self.request = request
        self.rollouts: dict[int, Rollout] = {}

    @property
    def finished(self) -> bool:
        return len(self.rollouts) == self.request.group_size


@dataclass
class _Row:
    """A response that is being sampled: its group, its number in the group, and its first and last column."""

    group: _Group
    number: int
    start: int
    last: int
    alive: bool = True


class Slots:
    """Rows for `max_sequences` responses at a time, and the requests that fill them.

    Args:
        decoder: Forward passes of the rows.
        requests: Requests, which are taken one at a time.
        cancelled: Numbers of requests that are no longer needed.
        max_sequences: Largest number of rows; a single request may have more.
        end_ids: Token ids that end a response.
        device: Device of the forward passes.
    """

    def __init__(
        self,
        decoder: Decoder,
        requests: Iterable[Request],
        cancelled: Container[int],
        max_sequences: int,
        end_ids: list[int],
        device: torch.device,
    ) -> None:
        self._decoder = decoder
        self._requests = iter(requests)
        self._cancelled = cancelled
        self._max_sequences = max_sequences
        self._end_ids = torch.tensor(end_ids, device=device)
        self._device = device
        self._taken = 0  # number of requests taken so far
        self._group_size = 1  # of the last request taken: what the next one will need
        self._waiting: _Group | None = None  # taken, but too large for the room there was
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
        self._step = SamplingStep(0, 0)

    # ---- requests ---------------------------------------------------------------------------------------------------

    def take(self) -> bool:
        """Ends what was cancelled, and takes requests if it is time to. Returns False when nothing is left to do."""
        ended = [group for group in self._groups if group.index in self._cancelled]
        for row in self._rows if ended else []:
            if row.alive and row.group in ended:
                row.alive = False
                self._live -= 1
        self._groups = [group for group in self._groups if not group.finished and group not in ended]
        if self._crowded and (self._decoder.accepts_more or self._live == 0):
            self._take_requests()
        return self._live > 0 or bool(self._arrivals)

    @property
    def _crowded(self) -> bool:
        """Whether so many rows have ended that the rest should be rearranged."""
        return CROWDED * (len(self._rows) - self._live) >= len(self._rows)

    def _take_requests(self) -> None:
        live = self._live
        while self._waiting or live == 0 or live + self._group_size <= self._max_sequences:
            group = self._waiting or self._next()
            self._waiting = None
            if group is None:
                return
            if group.index in self._cancelled:
                continue
            if live and live + group.request.group_size > self._max_sequences:
                self._waiting = group
                return
            live += group.request.group_size
            self._arrivals.append(group)

    def _next(self) -> _Group | None:
        request = next(self._requests, None)
        if request is None:
            return None
        if request.group_size < 1 or len(request.prompt) == 0:
            raise ValueError(f"request {self._taken} has an empty prompt or a group_size below 1")
        self._taken += 1
        self._group_size = request.group_size
        return _Group(self._taken - 1, request)

    # ---- rows -------------------------------------------------------------------------------------------------------

    def advance(self) -> SamplingStep:
        """Samples a token of each row, and returns what has happened since the last call."""
        if self._arrivals or (self._crowded and self._live):
            self._rearrange()
        if self._live:
            logits = self._decoder.step(self._tokens[:, self._column].long())
            self._column += 1
            self._count(0, self._live)
            self._draw(logits, self._samplings, 0)
        step, self._step = self._step, SamplingStep(0, 0)
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
            self._count(0, sum(counts))
            repeats = torch.tensor(counts, device=self._device)
            self._draw(logits.repeat_interleave(repeats, dim=0), _runs(self._rows[len(kept) :]), len(kept))

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
        for group in arrivals:
            request = group.request
            count, tokens = request.group_size, request.sampling.max_response_tokens
            numbers = uniforms(request.seed, count, tokens)
            self._uniforms[first : first + count, self._column : self._column + tokens] = numbers.to(self._device)
            first += count

    def _draw(self, logits: Tensor, samplings: list[tuple[Sampling, slice]], first: int) -> None:
        """Samples the rows from `first` on, writes their tokens to the current column, and ends those that end."""
        uniform = self._uniforms[first:, self._column]
        drawn = [sample(logits[rows], uniform[rows], sampling) for sampling, rows in samplings]
        tokens = torch.cat([each for each, _ in drawn]) if len(drawn) > 1 else drawn[0][0]
        log_probs = torch.cat([each for _, each in drawn]) if len(drawn) > 1 else drawn[0][1]
        self._tokens[first:, self._column] = tokens
        self._log_probs[first:, self._column] = log_probs
        stopped = torch.isin(tokens, self._end_ids)
        ended = stopped | (self._last_columns[first:] == self._column)
        numbers = [first + number for number in ended.nonzero().squeeze(-1).tolist()]
        numbers = [number for number in numbers if self._rows[number].alive]
        if numbers:
            self._end(numbers, stopped[[number - first for number in numbers]].tolist())

    def _end(self, numbers: list[int], stopped: list[bool]) -> None:
        """Takes the responses of rows that have ended out of the tensors."""
        written = slice(0, self._column + 1)
        tokens, log_probs = (each[numbers, written].cpu().numpy() for each in (self._tokens, self._log_probs))
        for place, number in enumerate(numbers):
            row = self._rows[number]
            row.alive = False
            row.group.rollouts[row.number] = Rollout(
                array("i", tokens[place, row.start :].tobytes()),
                array("f", log_probs[place, row.start :].tobytes()),
                "stop" if stopped[place] else "length",
            )
            if row.group.finished:
                rollouts = [row.group.rollouts[number] for number in range(row.group.request.group_size)]
                self._step.finished.append(FinishedGroup(row.group.index, rollouts))
        self._live -= len(numbers)
        self._count(len(numbers), 0)

    def _count(self, responses: int, tokens: int) -> None:
        self._step = SamplingStep(self._step.responses + responses, self._step.tokens + tokens, self._step.finished)


def _runs(rows: list[_Row]) -> list[tuple[Sampling, slice]]:
    """The runs of adjacent rows that are sampled alike."""
    runs, first = [], 0
    for sampling, alike in groupby(rows, key=lambda row: row.group.request.sampling):
        end = first + len(list(alike))
        runs.append((sampling, slice(first, end)))
        first = end
    return runs
