"""ReNCE in one file, to read top to bottom: Algorithm 1 of the paper with this project's objective, engine and policy.

    python examples/minimal.py

trains the embedded policy of half a million parameters on chains of additions, in about a minute on two CPU cores. It
has one process, no checkpoints and no logs; `python -m rence_lightning fit --config arithmetic` is the same method and
settings with all of that, and draws as many prompts as are missing. The lines are those of Algorithm 1.
"""

import random
from collections.abc import Iterator

import torch

from rence_lightning.objectives.nce import multi_label_nce
from rence_lightning.objectives.trust_region import adapt_kl_coef, kl_estimate
from rence_lightning.parts import Problem
from rence_lightning.policy import PackedRow, Policy, Segment, load_policy
from rence_lightning.prompts import ArithmeticProblems
from rence_lightning.rewards import last_boxed, math_equivalent
from rence_lightning.rollouts import Request, Rollout, Sampling, TransformersEngine

ITERATIONS = 20
K = 8  # responses to a prompt
B = 24  # groups to train on in an iteration
GROUPS_PER_UPDATE = 12
BETA, ALPHA = 0.1, 0.5  # scale of the log-ratio and of the margin in a score, Eq. (2)
T_HARD, T_EASY, T_MASTER = 0.0, 0.5, 0.8  # bounds of the share of correct responses, Eq. (3)
TARGET_KL, HORIZON = 0.01, 25600  # of the adaptive coefficient, Section 3.5
SAMPLING = Sampling(temperature=1.0, max_response_tokens=64)


class Group:
    """A problem with its K responses, their rewards, and their log-probabilities under pi_old."""

    def __init__(self, problem: Problem, prompt: list[int], rollouts: list[Rollout], policy: Policy) -> None:
        self.problem, self.prompt, self.rollouts = problem, prompt, rollouts
        texts = [policy.tokenizer.decode(rollout.token_ids, skip_special_tokens=True) for rollout in rollouts]
        self.rewards = torch.tensor([reward(problem, text) for text in texts])
        self.old_log_probs = torch.zeros(0)  # the tokens of all responses, one after the other

    @property
    def positive(self) -> torch.Tensor:
        """Which responses are correct, the set P, `(K,)`."""
        return self.rewards == 1.0

    @property
    def lengths(self) -> list[int]:
        """Number of tokens of each response."""
        return [len(rollout.token_ids) for rollout in self.rollouts]


def reward(problem: Problem, response: str) -> float:
    """1 for a correct boxed answer, 0.1 for a wrong one, 0 without a box."""
    answer = last_boxed(response)
    if answer is None:
        return 0.0
    return 1.0 if math_equivalent(problem.answer, answer) else 0.1


def sample(policy: Policy, engine: TransformersEngine, problems: list[Problem], group_size: int) -> list[Group]:
    """Samples responses from the policy, in the order of the problems."""
    engine.sync(policy)
    prompts = [policy.tokenizer(f"{problem.problem}\n")["input_ids"] for problem in problems]
    requests = [Request(prompt, group_size, SAMPLING, random.getrandbits(32)) for prompt in prompts]
    finished = {group.index: group.rollouts for step in engine.generate(requests) for group in step.finished}
    return [Group(problems[i], prompts[i], finished[i], policy) for i in range(len(problems))]


def log_probs(policy: Policy, groups: list[Group]) -> torch.Tensor:
    """Log-probabilities of all response tokens, `(tokens,)`, in one packed row that holds each prompt once."""
    segments = [Segment(group.prompt, [rollout.token_ids for rollout in group.rollouts]) for group in groups]
    return policy(PackedRow(segments, policy.compute_device), SAMPLING.temperature).log_probs


def loss(policy: Policy, groups: list[Group], kl_coef: float) -> tuple[torch.Tensor, float]:
    """Eq. (1): the contrast of each positive with the group's negatives, plus lambda KL(pi_old || pi_theta)."""
    log_ratio = log_probs(policy, groups) - torch.cat([group.old_log_probs for group in groups])
    lengths = [length for group in groups for length in group.lengths]
    sequence_log_ratio = torch.stack([part.sum() for part in log_ratio.split(lengths)]).view(len(groups), K)
    rewards = torch.stack([group.rewards for group in groups])
    margin = rewards.amax(-1, keepdim=True) - rewards
    scores = BETA * sequence_log_ratio + ALPHA * margin  # Eq. (2)
    contrast = multi_label_nce(scores, torch.stack([group.positive for group in groups])).mean()
    kl = kl_estimate(log_ratio).mean()
    return contrast + kl_coef * kl, kl.item()


def draws(pool: dict[str, Problem]) -> Iterator[list[Problem]]:
    """Batches of problems in a new random order in each epoch, without those that have left the pool."""
    while pool:
        order = random.sample(sorted(pool), len(pool))
        for start in range(0, len(order), 2 * B):
            yield [pool[name] for name in order[start : start + 2 * B] if name in pool]


def accuracy(policy: Policy, engine: TransformersEngine, problems: list[Problem]) -> float:
    """Share of correct responses, sampled at temperature 1, four to each problem."""
    groups = sample(policy, engine, problems, 4)
    return torch.stack([group.positive.float() for group in groups]).mean().item()


def train(iterations: int = ITERATIONS, seed: int = 0) -> tuple[float, float]:
    """Trains the embedded policy; returns its pass@1 on the test problems before and after."""
    random.seed(seed)
    policy, engine = load_policy("embedded:arithmetic"), TransformersEngine(512)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.0)
    pool = {problem.id: problem for problem in ArithmeticProblems("train").load()}
    test = ArithmeticProblems("test").load()
    dataset = draws(pool)
    cache: list[Problem] = []  # line 1: the prompt cache Q
    kl_coef = 0.001
    before = accuracy(policy, engine, test)
    print(f"pass@1 before: {before:.1%}")
    for iteration in range(1, iterations + 1):  # line 2: pi_old is the policy as it is here
        stack: list[Group] = []  # line 3
        while len(stack) < B:  # line 4
            drawn, cache = cache or next(dataset), []  # lines 5 and 6
            for group in sample(policy, engine, drawn, K):  # lines 7 and 8
                rho = group.positive.float().mean().item()  # line 9
                if rho > T_MASTER:  # line 10
                    del pool[group.problem.id]  # line 11: mastered, never drawn again
                elif T_HARD < rho <= T_EASY:  # line 12
                    stack.append(group)  # line 13
        batch = stack[:B]  # line 17
        cache = [group.problem for group in stack[B:]]  # line 18: prompts alone, sampled again from the next pi_old
        with torch.no_grad():  # log pi_old, from this model and not the engine's
            for group in batch:
                group.old_log_probs = log_probs(policy, [group])
        for start in range(0, B, GROUPS_PER_UPDATE):  # line 19; line 20 is one optimizer step
            groups = batch[start : start + GROUPS_PER_UPDATE]
            value, kl = loss(policy, groups, kl_coef)
            value.backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            kl_coef = adapt_kl_coef(kl_coef, kl, TARGET_KL, HORIZON, len(groups) * K)
        print(f"iteration {iteration:2}  loss {value.item():.3f}  kl {kl:.1e}  problems left {len(pool)}")
    after = accuracy(policy, engine, test)
    print(f"pass@1 after: {after:.1%}")
    return before, after


if __name__ == "__main__":
    train()
