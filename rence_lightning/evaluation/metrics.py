"""The figures of one benchmark sampled k times: avg@k, pass@k, maj@k, and those that help to explain them."""

from collections.abc import Callable, Mapping, Sequence
from math import comb
from statistics import fmean

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from rence_lightning.evaluation.bootstrap import interval, resampled_means
from rence_lightning.evaluation.samples import EvaluatedProblem, Sample


class BenchmarkMetrics(Metric):
    """Accuracy over repeated sampling of a benchmark, accumulated over problems and over all ranks.

    With c[i, j] = 1 where the j-th of k responses to problem i of n is correct, and a[j] = mean over i of c[i, j]:

    - `avg`, avg@k: the mean of a[j]; equally the mean of c.
    - `std`: the sample standard deviation (k - 1 in the denominator) of a[j]; 0 when k = 1.
    - `avg_low`, `avg_high`: the 95% confidence interval of avg, by bootstrap over problems.
    - `pass`, pass@k: the share of problems with a correct response among the k. `pass@2`, `pass@4`, ... below k: the
      unbiased estimate 1 - C(k - c, m) / C(k, m) of the chance that one of m responses is correct (Chen et al. 2021).
    - `maj`, maj@k: the share of problems whose most frequent answer is correct; where several are equally frequent,
      the share of these that is correct. Responses without an answer do not vote.
    - `boxed`: the share of responses that give a final answer at all.
    - `truncated`: the share of responses that reached the length limit.
    - `length`: the mean response length in tokens.

    All but `length` are shares in [0, 1]. A problem that several ranks add is counted once.
    """

    full_state_update = False
    index: list[Tensor]
    correct: list[Tensor]
    votes: list[Tensor]
    truncated: list[Tensor]
    lengths: list[Tensor]

    def __init__(self, repeats: int) -> None:
        """
        Args:
            repeats: k, the number of responses to each problem.
        """
        super().__init__()
        if repeats < 1:
            raise ValueError(f"repeats must be at least 1, not {repeats}")
        self.repeats = repeats
        for name in ("index", "correct", "votes", "truncated", "lengths"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, index: Tensor, correct: Tensor, votes: Tensor, truncated: Tensor, lengths: Tensor) -> None:
        """Add problems.

        Args:
            index: Number of each problem in the benchmark, `(problems,)` int.
            correct: Whether each response's answer is correct, `(problems, repeats)` bool.
            votes: Number of each response's answer, equal for equal answers to a problem and -1 for no answer,
                `(problems, repeats)` int.
            truncated: Whether each response reached the length limit, `(problems, repeats)` bool.
            lengths: Response lengths in tokens, `(problems, repeats)` int.

        Raises:
            ValueError: The shape of an argument is not `(problems, repeats)`.
        """
        for name, values in (("correct", correct), ("votes", votes), ("truncated", truncated), ("lengths", lengths)):
            if values.shape != (len(index), self.repeats):
                raise ValueError(f"{name} has shape {tuple(values.shape)}, not ({len(index)}, {self.repeats})")
        self.index.append(index.long())
        self.correct.append(correct.bool())
        self.votes.append(votes.long())
        self.truncated.append(truncated.bool())
        self.lengths.append(lengths.long())

    def compute(self) -> dict[str, float]:
        """The figures by name, as listed in the class's docstring.

        Raises:
            ValueError: No problem has been added.
        """
        index = dim_zero_cat(self.index) if len(self.index) else torch.empty(0)
        if not len(index):
            raise ValueError("no problem was evaluated")
        # Each problem once, in the benchmark's order: the figures do not depend, to the last bit, on how problems are
        # distributed over ranks.
        rows = torch.tensor([int((index == number).nonzero()[0]) for number in index.unique(sorted=True)])
        correct, votes = dim_zero_cat(self.correct)[rows].cpu(), dim_zero_cat(self.votes)[rows].cpu()
        truncated, lengths = dim_zero_cat(self.truncated)[rows].cpu(), dim_zero_cat(self.lengths)[rows].cpu()
        per_repeat = correct.double().mean(dim=0)
        right = correct.sum(dim=1).tolist()
        low, high = interval(resampled_means(correct.double().mean(dim=1)))
        smaller = [2**power for power in range(1, self.repeats.bit_length()) if 2**power < self.repeats]
        return {
            "avg": float(correct.double().mean()),
            "std": float(per_repeat.std(correction=1)) if self.repeats > 1 else 0.0,
            "avg_low": low,
            "avg_high": high,
            **{f"pass@{m}": fmean(pass_at(m, self.repeats, c) for c in right) for m in smaller},
            "pass": fmean(c > 0 for c in right),
            "maj": fmean(_majority(*row) for row in zip(correct.tolist(), votes.tolist(), strict=True)),
            "boxed": float((votes >= 0).double().mean()),
            "truncated": float(truncated.double().mean()),
            "length": float(lengths.double().mean()),
        }


def score_problems(
    problems: Sequence[EvaluatedProblem], rank: int = 0, world: int = 1, device: torch.device | None = None
) -> dict[str, float]:
    """The figures of one benchmark: those of `BenchmarkMetrics`, and the number of `problems`.

    Args:
        problems: All problems of the benchmark with their samples, the same on every rank.
        rank: Number of this rank; each rank counts every `world`-th problem, and the metric adds them up.
        world: Number of ranks.
        device: Device for the exchange between ranks.
    """
    repeats, numbers = len(problems[0].samples), range(rank, len(problems), world)

    def table(value: Callable[[Sample], float], dtype: torch.dtype) -> Tensor:
        rows = [[value(sample) for sample in problems[number].samples] for number in numbers]
        return torch.tensor(rows, dtype=dtype, device=device).reshape(len(numbers), repeats)

    metrics = BenchmarkMetrics(repeats).to(device or torch.device("cpu"))
    metrics.update(
        torch.tensor(list(numbers), device=device),
        correct=table(lambda sample: sample.correct, torch.bool),
        votes=table(lambda sample: sample.vote, torch.long),
        truncated=table(lambda sample: sample.finish_reason == "length", torch.bool),
        lengths=table(lambda sample: sample.tokens, torch.long),
    )
    return {**metrics.compute(), "problems": float(len(problems))}


def pass_at(m: int, k: int, correct: int) -> float:
    """The unbiased estimate of the chance that one of m responses is correct, where `correct` of k are."""
    return 1.0 - comb(k - correct, m) / comb(k, m)


def _majority(correct: list[bool], votes: list[int]) -> float:
    counts = {vote: votes.count(vote) for vote in votes if vote >= 0}
    if not counts:
        return 0.0
    winners = [vote for vote, count in counts.items() if count == max(counts.values())]
    return fmean(correct[votes.index(vote)] for vote in winners)


def macro_average(results: Mapping[str, Mapping[str, float]]) -> float:
    """The mean of `avg` over benchmarks, each with the same weight whatever its number of problems.

    Raises:
        ValueError: `results` is empty.
    """
    if not results:
        raise ValueError("no benchmark was evaluated")
    return fmean(result["avg"] for result in results.values())
