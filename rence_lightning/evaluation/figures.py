"""The figures of one benchmark sampled k times: avg@k, pass@k, maj@k, and those that help to explain them."""

from collections.abc import Mapping
from math import comb
from statistics import multimode

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from rence_lightning.evaluation.intervals import interval, resampled_means
from rence_lightning.evaluation.samples import EvaluatedProblem


class BenchmarkMetrics(Metric):
    """Accuracy over repeated sampling of a benchmark, over all ranks; a problem that several ranks add is counted once.

    With c[i, j] = 1 where the j-th of k responses to problem i of n is correct, and a[j] = mean over i of c[i, j]:

    - `avg`, avg@k: the mean of a[j]; equally the mean of c.
    - `std`: the sample standard deviation (k - 1 in the denominator) of a[j]; 0 when k = 1.
    - `avg_low`, `avg_high`: the 95% confidence interval of avg, by bootstrap over problems.
    - `pass`, pass@k: the share of problems with a correct response among the k. `pass@2`, `pass@4`, ... below k: the
      unbiased estimate 1 - C(k - c, m) / C(k, m) of the chance that one of m responses is correct (Chen et al. 2021).
    - `maj`, maj@k: the share of problems whose most frequent answer is correct; where several are equally frequent,
      the share of these that is correct. Responses without an answer do not vote.
    - `answered`: the share of responses that give a final answer at all. Both are missing where responses are correct
      and none has an answer, because the reward names none.
    - `truncated`: the share of responses that reached the length limit.
    - `length`: the mean response length in tokens.
    - `problems`: the number of problems.

    All but the last two are shares in [0, 1].

    Args:
        repeats: k, the number of responses to each problem.
    """

    full_state_update = False
    index: list[Tensor]
    samples: list[Tensor]

    def __init__(self, repeats: int) -> None:
        super().__init__()
        self.repeats = repeats
        self.add_state("index", [], dist_reduce_fx="cat")  # number of each problem, (problems,)
        self.add_state("samples", [], dist_reduce_fx="cat")  # (problems, k, 4): correct, vote, truncated, tokens

    def update(self, problems: Mapping[int, EvaluatedProblem]) -> None:
        """Adds problems with their k samples, by their number in the benchmark.

        Raises:
            ValueError: A problem does not have k samples.
        """
        rows = [
            [(each.correct, each.vote, each.finish_reason == "length", each.tokens) for each in problem.samples]
            for problem in problems.values()
        ]
        if any(len(row) != self.repeats for row in rows):
            raise ValueError(f"each problem must have {self.repeats} samples")
        # By way of NumPy, because torch takes several times as long to convert a list.
        samples = np.array(rows, dtype=np.int64).reshape(-1, self.repeats, 4)
        self.index.append(torch.tensor(list(problems), dtype=torch.int64, device=self.device))
        self.samples.append(torch.from_numpy(samples).to(self.device))

    def compute(self) -> dict[str, float]:
        """The figures by name, as listed in the class's docstring.

        Raises:
            ValueError: No problem has been added.
        """
        index = dim_zero_cat(self.index).cpu().numpy() if len(self.index) else ()
        if not len(index):
            raise ValueError("no problem was evaluated")
        # Each problem once, in the benchmark's order: the figures do not depend, to the last bit, on how problems are
        # distributed over ranks.
        _, rows = np.unique(index, return_index=True)
        correct, votes, truncated, lengths = np.moveaxis(dim_zero_cat(self.samples).cpu().numpy()[rows], -1, 0)
        low, high = interval(resampled_means(correct.mean(axis=1)))
        right, k = correct.sum(axis=1), self.repeats
        powers_of_two = (2**power for power in range(1, k.bit_length()) if 2**power < k)
        figures = {
            "avg": float(correct.mean()),
            "std": float(correct.mean(axis=0).std(ddof=1)) if k > 1 else 0.0,
            "avg_low": low,
            "avg_high": high,
            **{f"pass@{m}": float(_pass_at(m, k)[right].mean()) for m in powers_of_two},
            "pass": float((right > 0).mean()),
        }
        if not correct.any() or (votes >= 0).any():  # else the reward names no answers, so there is nothing to count
            figures["maj"] = float(np.mean([*map(majority_share, correct, votes)]))
            figures["answered"] = float((votes >= 0).mean())
        return {
            **figures,
            "truncated": float(truncated.mean()),
            "length": float(lengths.mean()),
            "problems": float(len(rows)),
        }


def _pass_at(m: int, k: int) -> NDArray[np.float64]:
    """pass@m by the number of correct responses, from 0 to k, `(k + 1,)`."""
    return np.array([1.0 - comb(k - correct, m) / comb(k, m) for correct in range(k + 1)])


def majority_share(correct: NDArray[np.int64], votes: NDArray[np.int64]) -> float:
    """The share of the most frequent answers to a problem that are correct; 0 without any answer.

    Args:
        correct: Whether each response is correct, `(k,)`.
        votes: Number of each response's answer, as in `Sample.vote`, `(k,)`.
    """
    verdicts = dict(zip(votes.tolist(), correct.tolist(), strict=True))
    winners = multimode(vote for vote in votes.tolist() if vote >= 0)
    return sum(verdicts[vote] for vote in winners) / max(len(winners), 1)
