"""The figures of one benchmark sampled k times: avg@k, pass@k, maj@k, and those that help to explain them."""

from collections.abc import Callable, Sequence
from math import comb
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
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
    - `answered`: the share of responses that give a final answer at all. Both are missing where responses are correct
      and none has an answer, because the reward names none.
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
        _, rows = np.unique(index.cpu().numpy(), return_index=True)
        states = (self.correct, self.votes, self.truncated, self.lengths)
        correct, votes, truncated, lengths = (dim_zero_cat(state).cpu().numpy()[rows] for state in states)
        answered = votes >= 0
        figures = {"maj": float(majority_shares(correct, votes).mean()), "answered": float(answered.mean())}
        without = bool(
            correct.any() and not answered.any()
        )  # the reward names no answers, so there is nothing to count
        low, high = interval(resampled_means(correct.mean(axis=1)))
        return {
            "avg": float(correct.mean()),
            "std": float(correct.mean(axis=0).std(ddof=1)) if self.repeats > 1 else 0.0,
            "avg_low": low,
            "avg_high": high,
            **_pass_figures(correct.sum(axis=1), self.repeats),
            **({} if without else figures),
            "truncated": float(truncated.mean()),
            "length": float(lengths.mean()),
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

    def table(value: Callable[[Sample], float], dtype: Any) -> Tensor:
        values = [value(sample) for number in numbers for sample in problems[number].samples]
        # By way of NumPy, because torch takes several times as long to convert a list.
        return torch.from_numpy(np.array(values, dtype=dtype).reshape(len(numbers), repeats)).to(device)

    metrics = BenchmarkMetrics(repeats).to(device or torch.device("cpu"))
    metrics.update(
        torch.tensor(list(numbers), device=device),
        correct=table(lambda sample: sample.correct, np.bool_),
        votes=table(lambda sample: sample.vote, np.int64),
        truncated=table(lambda sample: sample.finish_reason == "length", np.bool_),
        lengths=table(lambda sample: sample.tokens, np.int64),
    )
    return {**metrics.compute(), "problems": float(len(problems))}


def pass_at(m: int, k: int, correct: int) -> float:
    """The unbiased estimate of the chance that one of m responses is correct, where `correct` of k are."""
    return 1.0 - comb(k - correct, m) / comb(k, m)


def _pass_figures(right: NDArray[np.int64], k: int) -> dict[str, float]:
    """pass@m for the powers of two below k, and pass@k as `pass`.

    Args:
        right: Number of correct responses to each problem, `(problems,)`.
        k: Number of responses to each problem.
    """
    smaller = [2**power for power in range(1, k.bit_length()) if 2**power < k]
    # The chance depends on the number of correct responses alone, so that a table has it for all problems.
    tables = {m: np.array([pass_at(m, k, correct) for correct in range(k + 1)]) for m in smaller}
    return {
        **{f"pass@{m}": float(table[right].mean()) for m, table in tables.items()},
        "pass": float((right > 0).mean()),
    }


def majority_shares(correct: NDArray[np.bool_], votes: NDArray[np.int64]) -> NDArray[np.float64]:
    """The share of the most frequent answers to each problem that are correct; 0 for a problem without any answer.

    Args:
        correct: Whether each response's answer is correct, `(problems, repeats)`.
        votes: Number of each response's answer, as in `BenchmarkMetrics.update`, `(problems, repeats)`.

    Returns:
        A share for each problem, `(problems,)`.
    """
    problems = len(votes)
    voter = votes.ravel() >= 0
    problem = np.repeat(np.arange(problems), votes.shape[1])[voter]
    # Numbers of answers may be of any size, and a pair of problem and answer must fit in 64 bits.
    names, answer = np.unique(votes.ravel()[voter], return_inverse=True)
    _, first, count = np.unique(problem * len(names) + answer, return_index=True, return_counts=True)
    problem, right = problem[first], correct.ravel()[voter][first]
    most = np.zeros(problems, dtype=count.dtype)
    np.maximum.at(most, problem, count)
    winner = count == most[problem]
    winners = np.bincount(problem[winner], minlength=problems)
    return np.bincount(problem[winner & right], minlength=problems) / np.maximum(winners, 1)
