"""The gradient of one update, line 20 of Algorithm 1: its groups, planned into passes, and what the passes record.

A group that is cut into pieces couples responses of several micro-batches. The loss of a micro-batch is that of its
whole groups, in which the log-probabilities of its own responses have a gradient and those of the others are recorded
values. The gradients of the micro-batches add up to the exact gradient of the update.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from lightning.fabric import Fabric
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rence_lightning.distributed import gather, sum_over_ranks
from rence_lightning.objectives import ResponseTensors, Totals
from rence_lightning.policy import PackedRow, Segment, TokenScores
from rence_lightning.policy.micro_batches import MicroBatch, assign, cut, plan_micro_batches
from rence_lightning.sampling.groups import Group, engine_log_probs
from rence_lightning.training.module import PolicyModule


class Update:
    """The groups of an update that one rank trains on, and their passes.

    Args:
        groups: All groups of the update, the same on every rank.
        budget: Largest number of tokens of a pass, `micro_batch_tokens`.
        rank: Number of this rank.
        world: Number of ranks.
        packed: Whether the policy computes packed rows.
        couples: Whether the objective couples the responses of a group, so that a group that is cut is scored first.
        at_old_policy: Whether the policy still is pi_old, because this is the first update of its iteration.

    Attributes:
        groups: Groups of this rank.
        totals: Counts over the whole update.
        micro_batches: Micro-batches of the gradient passes. Every rank has equally many, because all ranks take part in
            the collectives of each pass; an empty one is a dummy.
        scoring: Micro-batches of the passes without a gradient that score groups that are cut.
        at_old_policy: Whether the policy still is pi_old.
        log_probs: Log-probabilities of each response of each group under the current policy, `(tokens,)`, without a
            gradient; None until a pass records them.
        reference: The same under the reference policy; empty without one.
        entropy: Sum of the entropies of all response tokens, where a pass has taken them.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        budget: int,
        rank: int = 0,
        world: int = 1,
        packed: bool = True,
        couples: bool = True,
        at_old_policy: bool = False,
    ) -> None:
        self.totals = _count(groups)
        self.at_old_policy = at_old_policy
        # Where log pi_old of all groups is known while the policy is pi_old, nothing needs to be scored.
        known = at_old_policy and all(group.old_log_probs for group in groups)
        passes, scoring = [], []
        of_ranks = assigned(groups, world)
        for indices in of_ranks:
            shapes = [groups[i].shape for i in indices]
            passes.append(plan_micro_batches(shapes, budget, packed))
            cuts = [i for i in range(len(shapes)) if len(cut(shapes, i, budget, packed)) > 1]
            cuts = cuts if couples and not known else []
            of_cuts = plan_micro_batches([shapes[i] for i in cuts], budget, packed)
            scoring.append([[piece._replace(group=cuts[piece.group]) for piece in pieces] for pieces in of_cuts])
        self.groups = [groups[i] for i in of_ranks[rank]]
        self.micro_batches = _with_dummies(passes, rank)
        self.scoring = _with_dummies(scoring, rank)
        self.log_probs: list[list[Tensor | None]] = [
            list(group.old_log_probs) if known else [None] * group.size for group in self.groups
        ]
        self.reference: list[list[Tensor]] = []
        self.entropy = 0.0

    # ---- passes -----------------------------------------------------------------------------------------------------

    def backward(self, module: PolicyModule, fabric: Fabric) -> dict[str, float]:
        """Accumulates the gradient of the update; returns its figures, summed over passes and ranks."""
        module.train()
        with fabric.autocast():
            self.prepare(module)
        for number, pieces in enumerate(self.micro_batches, start=1):
            with fabric.no_backward_sync(module.policy, enabled=number < len(self.micro_batches)):  # type: ignore[arg-type]
                with fabric.autocast():
                    loss = self.loss(module, pieces)
                # Strategies average gradients over ranks, but the parts of a loss add up.
                fabric.backward(loss * fabric.world_size)
        parts = gather({name: float(value) for name, value in self.figures(module).items()})
        return {name: sum(part.get(name, 0.0) for part in parts) for name in sorted(set().union(*parts))}

    def prepare(self, module: PolicyModule) -> None:
        """Takes the passes without a gradient on which the loss depends.

        These are the reference policy's, and those of groups that are cut. Where the trust region has a threshold
        `delta`, all groups are scored, because the penalty depends on the KL divergence of the whole update; not in the
        first update of an iteration, where it is 0.
        """
        if module.reference is not None:
            self._score_reference(module)
        if module.trust_region.delta is None or self.at_old_policy:
            self.score(module, self.scoring)
            return
        self.score(module, self.micro_batches)
        parts = self.responses() if self.groups else []
        (kl,) = sum_over_ranks(sum(float(module.trust_region.kl(part, self.totals)) for part in parts))
        self.totals = replace(self.totals, kl=kl)

    @torch.no_grad()
    def score(self, module: PolicyModule, micro_batches: Sequence[MicroBatch], entropy: bool = False) -> None:
        """Records the log-probabilities of micro-batches under the current policy."""
        for pieces in micro_batches:
            self._record(pieces, self._scores(module, pieces, entropy))

    def loss(self, module: PolicyModule, pieces: MicroBatch) -> Tensor:
        """A scalar whose gradient is the micro-batch's part of the update's; where all groups are whole, it is the
        micro-batch's part of the loss."""
        scores = self._scores(module, pieces, entropy=self.takes_old)
        self._record(pieces, scores)
        if not pieces:
            return scores.log_probs.sum() * 0.0
        return module.loss(self.responses(pieces, scores.log_probs), self.totals)[0]

    @torch.no_grad()
    def figures(self, module: PolicyModule) -> dict[str, Tensor]:
        """This rank's part of the update's loss and of the figures to log, after all passes."""
        return module.loss(self.responses(), self.totals)[1] if self.groups else {}

    @property
    def takes_old(self) -> bool:
        """Whether the log-probabilities that the gradient passes record are those of pi_old, not known before."""
        return self.at_old_policy and not all(group.old_log_probs for group in self.groups)

    @torch.no_grad()
    def _score_reference(self, module: PolicyModule) -> None:
        self.reference = [[torch.empty(0)] * group.size for group in self.groups]
        for pieces in self.micro_batches:
            log_probs = self._scores(module, pieces, reference=True).log_probs
            for group, response, values in self._split(pieces, log_probs):
                self.reference[group][response] = values

    def _scores(
        self, module: PolicyModule, pieces: MicroBatch, entropy: bool = False, reference: bool = False
    ) -> TokenScores:
        """Scores of a micro-batch; a dummy takes part in the collectives of the other ranks."""
        pad = [int(module.policy.tokenizer.pad_token_id)]
        segments = [Segment(pad, [pad])]
        if pieces:
            groups = [(self.groups[group], responses) for group, responses in pieces]
            segments = [
                Segment(
                    group.prompt.token_ids,
                    [group.rollouts[i].token_ids for i in responses],
                    [group.rollouts[i].replies for i in responses],
                )
                for group, responses in groups
            ]
        row = PackedRow(segments, module.policy.compute_device)
        return module.log_probs(row, self.groups[0].temperature if pieces else 1.0, entropy, reference)

    # ---- records ----------------------------------------------------------------------------------------------------

    def _record(self, pieces: MicroBatch, scores: TokenScores) -> None:
        """Keeps the log-probabilities of a micro-batch, and adds up its entropies."""
        for group, response, values in self._split(pieces, scores.log_probs.detach()):
            self.log_probs[group][response] = values
        if pieces and scores.entropy is not None:
            self.entropy += float(scores.entropy.sum())

    def _split(self, pieces: MicroBatch, values: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        """The values `(response tokens,)` of a micro-batch, with the numbers of group and response; none of a dummy."""
        places = [(group, response) for group, responses in pieces for response in responses]
        lengths = [self.groups[group].lengths[response] for group, response in places]
        for (group, response), part in zip(places, values.split(lengths) if places else (), strict=True):
            yield group, response, part

    def responses(self, pieces: MicroBatch | None = None, log_probs: Tensor | None = None) -> list[ResponseTensors]:
        """Whole groups as an objective sees them, one element for each group size (filters may leave responses out).

        A response whose log-probabilities are not recorded belongs to an objective that does not couple responses; it
        gets those of pi_old, or zeros. As long as those of pi_old are unknown, the policy is pi_old.

        Args:
            pieces: Micro-batch; None for all groups of this rank.
            log_probs: Log-probabilities of the micro-batch's own responses, `(response tokens,)`, with a gradient.
        """
        own: dict[tuple[int, int], Tensor] = {}
        if pieces is not None and log_probs is not None:
            own = {(group, response): part for group, response, part in self._split(pieces, log_probs)}
        chosen = range(len(self.groups)) if pieces is None else dict.fromkeys(group for group, _ in pieces)
        sizes: dict[int, list[int]] = defaultdict(list)
        for number in chosen:
            sizes[self.groups[number].size].append(number)
        return [self._of_one_size(numbers, own) for numbers in sizes.values()]

    def _of_one_size(self, numbers: Sequence[int], own: dict[tuple[int, int], Tensor]) -> ResponseTensors:
        """Groups of equally many responses, padded to one length."""
        groups = [self.groups[number] for number in numbers]
        known = [values for each in self.log_probs for values in each if values is not None]
        like = next(iter(own.values())) if own else known[0]
        device = like.device
        current: list[Tensor] = []
        old: list[Tensor] = []
        for number, group in zip(numbers, groups, strict=True):
            for response, length in enumerate(group.lengths):
                before = group.old_log_probs[response].to(device) if group.old_log_probs else None
                values = own.get((number, response), self.log_probs[number][response])
                if values is None:
                    values = before if before is not None else like.new_zeros(length)
                current.append(values.to(device))
                old.append(before if before is not None else values.detach())
        reference = [values for number in numbers for values in self.reference[number]] if self.reference else None
        lengths = torch.tensor([group.lengths for group in groups])

        def padded(rows: list[Tensor]) -> Tensor:
            return pad_sequence(rows, batch_first=True).unflatten(0, (len(groups), groups[0].size))

        return ResponseTensors(
            log_probs=padded(current),
            old_log_probs=padded(old),
            mask=(torch.arange(int(lengths.max())) < lengths.unsqueeze(-1)).to(device),
            rewards=torch.tensor([group.rewards for group in groups], device=device),
            positive=torch.tensor([group.positive for group in groups], device=device),
            seeds=tuple(group.seed for group in groups),
            engine_log_probs=padded([engine_log_probs(each) for group in groups for each in group.rollouts]).to(device),
            reference_log_probs=padded(reference) if reference is not None else None,
        )


def assigned(groups: Sequence[Group], world: int) -> list[list[int]]:
    """The numbers of the groups that each rank trains on, evened out by tokens."""
    return assign([prompt + sum(responses) for prompt, responses in (group.shape for group in groups)], world)


def drop_tokens_of_others(groups: Sequence[Group], rank: int, world: int) -> None:
    """Frees the tokens of an update's groups that other ranks train on."""
    for number, indices in enumerate(assigned(groups, world)):
        for index in indices if number != rank else ():
            groups[index].drop_tokens()


def _with_dummies(of_ranks: list[list[MicroBatch]], rank: int) -> list[MicroBatch]:
    """A rank's micro-batches, and dummies up to the largest number that any rank has."""
    return of_ranks[rank] + [[] for _ in range(max(map(len, of_ranks)) - len(of_ranks[rank]))]


def _count(groups: Sequence[Group]) -> Totals:
    return Totals(
        prompts=len(groups),
        responses=sum(group.size for group in groups),
        tokens=sum(sum(group.lengths) for group in groups),
        positives=sum(sum(group.positive) for group in groups),
    )
