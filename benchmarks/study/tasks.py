r"""The tasks of the studies, as files of problems, and their rewards.

- `chains`: the demo's chains of additions and its policy. The validation problems are those that the warm-up of the
  policy did not ask.
- `gym`: `basic_arithmetic` of reasoning-gym, and a policy that mostly guesses (see `make_guesser`).
- pools of chains by difficulty: how often the demo's policy solves them before training.
"""

import hashlib
import json
import random
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from benchmarks.study import make_guesser
from rence_lightning.policy.load import load_policy
from rence_lightning.problem import Problem
from rence_lightning.prompts import ArithmeticProblems
from rence_lightning.prompts.arithmetic import Chain, chains_of, draw_new_chain
from rence_lightning.prompts.gym import GymProblems
from rence_lightning.rewards import MathReward
from rence_lightning.rewards.reward import Response, Reward, Score
from rence_lightning.rollouts.engine import Request, Sampling
from rence_lightning.rollouts.transformers import TransformersEngine
from rence_lightning.text import last_boxed
from tools.make_arithmetic import draw_examples
from tools.make_gym import TASK
from tools.warm_up import BATCH_SIZE, PHASES, TEMPLATE

TRAIN, VALIDATION = "train", "validation"
VALIDATION_SIZE = 400
POOL_CHAINS, POOL_SAMPLES, POOL_TRAIN, POOL_TEST = 12_000, 16, 200, 80
POOLS = {"hard": (1, 1), "medium": (4, 5), "half": (7, 8), "easy": (9, 16)}
"""Pools by the number of right responses among `POOL_SAMPLES`, from the first number to the last. Easier ones are rare:
the warm-up asked nearly all chains of one step, and 1.3% of the others are solved ten times or more."""


def prepare(folder: Path) -> None:
    """Writes the files of the tasks that are not there yet; takes about two minutes on one core.

    The files are the same wherever the versions of torch and transformers and the kind of processor are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "guesser" / "tokenizer_config.json").exists():
        make_guesser.main([str(folder / "guesser")])
    if not (folder / "chains-test.jsonl").exists():
        for split, problems in chain_splits().items():
            write_problems(folder / f"chains-{split}.jsonl", problems, split)
    if not (folder / "gym-test.jsonl").exists():
        for split, problems in gym_splits().items():
            write_problems(folder / f"gym-{split}.jsonl", problems, split)


def prepare_pools(folder: Path) -> None:
    """Writes the pools of chains by difficulty, unless they are there; takes about two minutes on one core."""
    if not (folder / f"{list(POOLS)[-1]}-test.jsonl").exists():
        for name, chains in chain_pools().items():
            parts = {TRAIN: chains[:POOL_TRAIN], "test": chains[POOL_TRAIN : POOL_TRAIN + POOL_TEST]}
            for split, part in parts.items():
                problems = [Problem(f"{name}/{split}/{n}", c.problem, c.answer, name) for n, c in enumerate(part)]
                write_problems(folder / f"{name}-{split}.jsonl", problems, split)


def write_problems(path: Path, problems: Iterable[Problem], split: str) -> None:
    """Writes problems as rows that `FileProblems` and the rewards read."""
    rows = [
        {**each.fields, "id": each.id, "problem": each.problem, "answer": each.answer, "split": split}
        for each in problems
    ]
    draft = path.with_suffix(".tmp")
    draft.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    draft.replace(path)


def chain_splits() -> dict[str, list[Problem]]:
    """The demo's problems, with validation problems that neither training, test nor the policy's warm-up has."""
    train, test = ArithmeticProblems("train").load(), ArithmeticProblems("test").load()
    taken = warm_up_problems() | {problem.problem for problem in (*train, *test)}
    chains = new_chains(random.Random(30_001), VALIDATION_SIZE, taken)
    validation = [Problem(f"chains/{VALIDATION}/{n}", c.problem, c.answer, "chains") for n, c in enumerate(chains)]
    return {TRAIN: train, VALIDATION: validation, "test": test}


def new_chains(rng: random.Random, count: int, taken: Collection[str]) -> list[Chain]:
    """Different chains, none of which is in `taken`."""
    seen, chains = set(taken), []
    for _ in range(count):
        chains.append(draw_new_chain(rng, seen))
        seen.add(chains[-1].problem)
    return chains


def warm_up_problems(seed: int = 0) -> set[str]:
    """The problems of all examples from which the embedded policy was made: the draws of its program, repeated."""
    rng, held_out = random.Random(seed), {chain.problem for chain in chains_of("test")}
    prompts = [
        prompt
        for phase in PHASES
        for _ in range(phase.steps)
        for prompt, _ in draw_examples(held_out, rng, BATCH_SIZE, phase.sloppy)
    ]
    end = TEMPLATE.removeprefix("{problem}")
    return {prompt.removesuffix(end) for prompt in prompts}


def gym_splits() -> dict[str, list[Problem]]:
    """Problems of `basic_arithmetic`; validation and test are from the split that no example of the warm-up is in."""

    def draw(split: str, size: int, seed: int) -> list[Problem]:
        return GymProblems({"basic_arithmetic": TASK}, split=split, size=size, seed=seed, instruction="").load()

    test = draw("test", 500, 0)
    asked = {problem.problem for problem in test}
    others = [problem for problem in draw("test", 1000, 1) if problem.problem not in asked]
    return {TRAIN: draw(TRAIN, 2000, 0), VALIDATION: others[:VALIDATION_SIZE], "test": test}


def chain_pools() -> dict[str, list[Chain]]:
    """Chains by how often the embedded policy solves them before training."""
    taken = warm_up_problems() | {chain.problem for chain in chains_of("test")}
    chains = new_chains(random.Random(30_002), POOL_CHAINS, taken)
    solved = count_solved(chains)
    pools = {name: [c for c, n in zip(chains, solved, strict=True) if a <= n <= b] for name, (a, b) in POOLS.items()}
    if short := [name for name, pool in pools.items() if len(pool) < POOL_TRAIN + POOL_TEST]:
        raise RuntimeError(f"too few chains for the pools {', '.join(short)}; raise POOL_CHAINS")
    return pools


def count_solved(chains: Sequence[Chain]) -> list[int]:
    """The number of right answers among `POOL_SAMPLES` responses of the embedded policy to each chain."""
    policy = load_policy("embedded:arithmetic")
    engine = TransformersEngine(max_sequences=512)
    engine.sync(policy)
    sampling = Sampling(temperature=1.0, max_response_tokens=64)
    requests = [
        Request(policy.tokenizer.encode(TEMPLATE.format(problem=chain.problem)), POOL_SAMPLES, sampling, seed)
        for seed, chain in enumerate(chains)
    ]
    solved = [0] * len(chains)
    for step in engine.generate(requests):
        for group in step.finished:
            ids = [rollout.token_ids.tolist() for rollout in group.rollouts]
            texts = policy.tokenizer.batch_decode(ids, skip_special_tokens=True)
            solved[group.index] = sum(last_boxed(text) == chains[group.index].answer for text in texts)
    return solved


def partial_credit(response: Response) -> Score:
    """1 for a right answer; otherwise up to 0.5, by the share of the steps that are right from the start on."""
    answer = last_boxed(response.text)
    if answer == response.problem.answer:
        return Score(1.0, True, answer)
    terms = response.problem.problem.removesuffix("=?").replace("-", "+-").split("+")
    chain = Chain(int(terms[0]), tuple(int(term) for term in terms[1:]))
    wanted, written = chain.solution.split(",")[:-1], response.text.split(",")
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
        return response.problem.fields.get("split") == TRAIN and draw < self.share

    def _flipped(self, score: Score) -> Score:
        right = not score.correct
        return Score(self.reward.correct if right else self.reward.wrong, right, score.answer)
