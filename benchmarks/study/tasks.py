r"""What the tasks of the studies need: files of problems, a start policy, and two rewards.

The problems are in `problems/`; the programs that drew them are in commit `3164e51`.

- `chains`: the demo's chains of additions. The warm-up of its policy asked none of the validation and test problems.
- `gym`: `basic_arithmetic` of reasoning-gym, for a policy that mostly guesses (see `make_guesser`).
- `sums`: `chain_sum` of reasoning-gym 0.1.19 (Apache-2.0), two numbers of one or two digits, each pair once.
- `words`: one-step word problems, written from public data (see `warm_start`).
- `hard`, `medium`, `half`, `easy`: other chains, by how often the demo's policy solves them before training.
"""

import gzip
import hashlib
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from benchmarks.study import make_guesser, warm_start
from benchmarks.study.spec import Spec
from rence_lightning.rewards import MathReward, Response, Reward, Score, last_boxed

PROBLEMS = Path(__file__).parent / "problems"


def prepare(folder: Path, spec: Spec) -> None:
    """Unpacks the problems, and makes the start policies of the tasks, unless they are there: minutes on one core.

    A policy is the same wherever the version of torch and the kind of processor are.
    """
    policies = {each.policy for each in spec.tasks.values()}
    folder.mkdir(parents=True, exist_ok=True)
    for file in PROBLEMS.glob("*.jsonl.gz"):
        (folder / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    if "guesser" in policies and not (folder / "guesser" / "README.md").exists():
        make_guesser.main([str(folder / "guesser")])
    if warm_start.POLICY in policies:
        warm_start.write_words(folder)
        warm_start.make_policy(folder)


def partial_credit(response: Response) -> Score:
    """1 for a right answer; otherwise up to 0.5, by the share of the steps that are right from the start on."""
    answer = last_boxed(response.text)
    if answer == response.problem.answer:
        return Score(1.0, True, answer)
    terms = [int(term) for term in response.problem.problem.removesuffix("=?").replace("-", "+-").split("+")]
    sums = list(accumulate(terms))
    wanted = [f"{before}{term:+d}={after}" for before, term, after in zip(sums, terms[1:], sums[1:], strict=False)]
    written = response.text.split(",")
    right = 0
    while right < len(wanted) and written[right : right + 1] == wanted[right : right + 1]:
        right += 1
    return Score(0.5 * right / len(wanted), False, answer)


class NoisyReward(Reward):
    """`MathReward`, which in training takes a share of the responses that are right for wrong, and the reverse.

    Whether it errs depends on the problem and the text of the response alone, as the errors of a parser do. Problems
    of other splits are graded without errors.

    Args:
        share: Share of the responses that are graded wrongly.
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self.reward = MathReward(workers=1)

    def score(self, responses: Sequence[Response]) -> list[Score]:
        pairs = zip(responses, self.reward.score(responses), strict=True)
        return [self._flipped(score) if self._errs(response) else score for response, score in pairs]

    @property
    def label(self) -> str:
        return f"{super().label} ({self.share:g})"

    def same(self, answers: Sequence[tuple[str, str]]) -> list[bool]:
        return self.reward.same(answers)

    def close(self) -> None:
        """Ends the grading processes."""
        self.reward.close()

    def _errs(self, response: Response) -> bool:
        text = f"{response.problem.problem}\n{response.text}".encode()
        draw = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) / 2**64
        return response.problem.fields.get("split") == "train" and draw < self.share

    def _flipped(self, score: Score) -> Score:
        right = not score.correct
        return Score(self.reward.correct if right else self.reward.wrong, right, score.answer)
