"""Prompts -> rollouts -> rewards -> filter, as an iterable dataset: lines 1 to 18 of Algorithm 1."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, IterableDataset

from rence_lightning.distributed import check_same, sum_over_ranks
from rence_lightning.environments import Environment, TurnLimits
from rence_lightning.errors import UserError, call_plugin, check_parameters
from rence_lightning.policy import Policy
from rence_lightning.policy.export import sampled_with
from rence_lightning.prompts import (
    Cleaned,
    Cleaning,
    Problem,
    ProblemSource,
    Prompt,
    PromptTemplate,
    encode_prompts,
    fingerprint,
)
from rence_lightning.rewards import MathReward, Reward
from rence_lightning.rollouts import RolloutEngine, Sampling, TransformersEngine
from rence_lightning.rollouts.engine import end_of_sequence_ids
from rence_lightning.sampling.batch import IterationBatch
from rence_lightning.sampling.curriculum.draws import DrawSize
from rence_lightning.sampling.curriculum.filtering import JUDGE, Outcome, PositiveRatioFilter, PromptFilter
from rence_lightning.sampling.curriculum.pool import PromptPool
from rence_lightning.sampling.dialogue import Dialogues
from rence_lightning.sampling.groups import Group
from rence_lightning.sampling.sampler import Draw, RolloutSampler

TRUNCATED = (
    "data: sampling.top_p is {:g}: responses are drawn from the likeliest tokens alone, but scores and the trust region"
    " are of the whole distribution, and neither tis_cap nor rollouts/mismatch_abs sees the difference; with 1, what is"
    " sampled is what is scored"
)

START, REPLY = "def start(self, problem: Problem, seed: int) -> None", "def reply(self, turn: str) -> str | None"
SCORE = "def score(self, responses: Sequence[Response]) -> list[Score]"


class RolloutListener(Protocol):
    """Receives the progress of sampling."""

    def on_draw(self, batch: IterationBatch, prompts: int, group_size: int) -> None:
        """Called before `prompts` prompts are sampled; `batch` holds the groups kept so far."""

    def on_tokens(self, responses: int, tokens: int) -> None:
        """Called with the numbers of responses finished and tokens sampled on this rank since the last call."""


class RolloutDataset(IterableDataset[IterationBatch]):
    """Yields one `IterationBatch` per iteration, sampled from the policy as it is at that moment.

    The iterator ends when every prompt is mastered. A batch may hold fewer than B groups, or none.
    """

    def __init__(self, data: "RolloutDataModule", listener: RolloutListener | None = None) -> None:
        self._data = data
        self._listener = listener

    def __iter__(self) -> Iterator[IterationBatch]:
        while self._data.pool.left > 0:
            yield self._next_iteration()

    def _next_iteration(self) -> IterationBatch:
        """Lines 2 to 18 of Algorithm 1, whose numbers are in the comments."""
        data, pool = self._data, self._data.pool
        data.sampler.sync()  # 2: pi_old <- pi_theta
        pool.start_iteration()
        data.iteration += 1
        batch = IterationBatch(data.iteration, data.prompts_per_update, data.prompts_per_iteration)  # 3
        if data.dialogues is not None:  # figures also of an iteration without a reply
            batch.sums = dict.fromkeys(("replied", "replies", "reply_tokens"), 0.0)
        while batch.missing and batch.draws < data.max_draws_per_iteration:  # 4
            drawn = pool.draw(data.draw_size.next())  # 5, 6: the cached prompts first
            if not drawn:
                break
            draw = self._sample(batch, [data.prompts[index] for index in drawn])  # 7 to 9
            for group in draw.groups:
                data.record(group)
                if group.outcome is Outcome.MASTERED:  # 10
                    pool.master(group.prompt.index)  # 11
                batch.add(group)  # 12, 13; the draw ends with the group that completes the batch: 17
            pool.cache(drawn[len(draw.groups) :])  # 18
            batch.add_draw(draw.costs)
        data.sampler.release()
        batch.responses_total = data.responses_total
        batch.figures |= data.end_iteration()
        return batch

    def _sample(self, batch: IterationBatch, prompts: list[Prompt]) -> Draw:
        """The groups of the prompts, judged, up to the one that completes the batch."""
        data, listener = self._data, self._listener
        if listener is not None:
            listener.on_draw(batch, len(prompts), data.group_size)
        return data.sampler.sample(
            prompts,
            data.group_size,
            data.sampling,
            lambda prompt: f"seed {data.seed}, iteration {batch.iteration}",
            listener.on_tokens if listener is not None else None,
            lambda group, responses: group.judge(data.filter, responses),
            wanted=batch.missing,
        )


class RolloutDataModule(LightningDataModule):
    """Samples, grades and filters the groups that a run trains on.

    All batch sizes are counted in prompts and are global, for any number of devices.

    Args:
        problems: Sources of the training problems; the problems of several sources are joined.
        weights: Weights of the problem sources, relative to one another (default: none; every problem is drawn once
            per epoch).
        cleaning: Rules by which problems are removed before the run (default: duplicates, contradictions and problems
            of the benchmarks).
        template: Template that turns a problem into a prompt (default: the paper's instructions, as the user's turn of
            a chat).
        engine: Rollout engine that samples the responses (default: `TransformersEngine`).
        reward: Reward that grades the responses (default: `MathReward`, which gives 1 for a correct boxed answer, 0.1
            for a wrong boxed answer and 0 without a box).
        filter: Filter that selects the groups to train on (default: `PositiveRatioFilter`).
        environment: Environment that replies to the policy's turns (default: none; a response is one turn).
        turns: Limits of turns and replies, with an environment.
        sampling: Temperature, top-p and length limit in training.
        group_size: Number of responses per prompt, K.
        prompts_per_iteration: Number of groups to train on in an iteration, B.
        prompts_per_update: Number of groups in one optimizer step, the mini-batch.
        prompts_per_draw: Number of prompts sampled at a time until B groups are kept (default: as many as should give
            the groups that are still missing, from the share of groups that was kept so far; at most 8 B).
        max_draws_per_iteration: Number of draws after which an iteration trains on the groups it has.
        max_prompt_tokens: Largest number of tokens of a prompt; longer prompts are dropped and counted (default: as
            many as the policy's context leaves beside the response).
        seed: Seed of the order of the prompts and of sampling; on the command line it is `seed_everything`.
    """

    command: Literal["fit", "warmup"] = "fit"
    """Name of the command that trains on these data."""

    dataset: type[RolloutDataset] = RolloutDataset

    def __init__(
        self,
        problems: list[ProblemSource],
        weights: list[float] | None = None,
        cleaning: Cleaning | None = None,
        template: PromptTemplate | None = None,
        engine: RolloutEngine | None = None,
        reward: Reward | None = None,
        filter: PromptFilter | None = None,
        environment: Environment | None = None,
        turns: TurnLimits = TurnLimits(),  # noqa: B008  (frozen)
        sampling: Sampling = Sampling(),  # noqa: B008  (frozen)
        group_size: int = 8,
        prompts_per_iteration: int = 512,
        prompts_per_update: int = 32,
        prompts_per_draw: int | None = None,
        max_draws_per_iteration: int = 10,
        max_prompt_tokens: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        _check_sizes(group_size, prompts_per_iteration, prompts_per_update, prompts_per_draw, max_draws_per_iteration)
        self.problems = problems
        self.weights = weights
        self.cleaning = cleaning if cleaning is not None else Cleaning()
        self.template = template if template is not None else PromptTemplate()
        self.engine = engine if engine is not None else TransformersEngine()
        self.reward = reward if reward is not None else MathReward()
        self.filter = filter if filter is not None else PositiveRatioFilter()
        check_parameters(self.reward, "data.reward", "score", SCORE)
        check_parameters(self.filter, "data.filter", "judge", JUDGE)
        if environment is not None:
            for method, definition in ("start", START), ("reply", REPLY):
                check_parameters(environment, "data.environment", method, definition)
        self.environment, self.turns = environment, turns
        self.sampling = sampling
        self.group_size = group_size
        self.prompts_per_iteration = prompts_per_iteration
        self.prompts_per_update = prompts_per_update
        self.draw_size = DrawSize(prompts_per_iteration, prompts_per_draw)
        self.max_draws_per_iteration = max_draws_per_iteration
        self.max_prompt_tokens = max_prompt_tokens
        self.seed = seed
        self.iteration = 0
        self.responses_total = 0
        self.prompts: dict[int, Prompt] = {}
        self.dropped_too_long = 0
        self.cleaned = Cleaned([])
        self.dialogues: Dialogues | None = None
        self._held_out: dict[str, Sequence[Problem]] = {}

    def connect(self, policy: Policy) -> None:
        """Connects the data to the policy that the responses are sampled from.

        Raises:
            UserError: The limits of prompts and responses together exceed the policy's context.
        """
        self.context_length = policy.context_length
        self.longest_prompt = self.prompt_limit(self.sampling, "data")
        self.tokenizer, self._model = policy.tokenizer, policy.model
        if policy.tokenizer.chat_template and self.template.is_chat(policy.tokenizer):
            _end_turns(policy, self.template)
        if self.environment is not None:
            settings = self.environment, self.turns, self.template, self.tokenizer
            self.dialogues = Dialogues(*settings, end_of_sequence_ids(policy.model))
        self.sampler = RolloutSampler(self.engine, self.reward, policy, self.dialogues)

    def prompt_limit(self, sampling: Sampling, section: str) -> int:
        """The largest number of tokens of a prompt whose response is sampled in this way.

        Raises:
            UserError: Prompts and responses together exceed the policy's context; it names the `section` of `sampling`.
        """
        prompt, response, context = self.max_prompt_tokens, sampling.max_response_tokens, self.context_length
        if context is None:
            return 2**31 if prompt is None else prompt  # without a limit, where the context is not known
        if (needed := response + (1 if prompt is None else prompt)) > context:
            limit = "a prompt" if prompt is None else f"data.max_prompt_tokens ({prompt})"
            raise UserError(
                f"{section}: {limit} and sampling.max_response_tokens ({response}) need {needed} tokens, but the "
                f"policy's context is {context} for both; lower {'it' if prompt is None else 'one of the two limits'}"
            )
        return context - response if prompt is None else prompt

    def hold_out(self, benchmarks: Mapping[str, Sequence[Problem]]) -> None:
        """Adds problems, by name of the benchmark, that must be left out of training; call before `setup`."""
        self._held_out.update(benchmarks)

    def setup(self, stage: str) -> None:
        """Loads and cleans the training problems (`fit` only); call after `connect`.

        Raises:
            UserError: The problems cannot be read, or none is left after cleaning.
        """
        if stage != "fit" or self.prompts:
            return
        if self.sampling.temperature == 0 and self.command == "fit":  # a warm start samples nothing
            raise UserError(
                "data: sampling.temperature is 0; the K responses to a prompt would be equal and give no contrast; set "
                "it above 0"
            )
        if self.sampling.top_p < 1 and self.command == "fit":
            warnings.warn(TRUNCATED.format(self.sampling.top_p), stacklevel=2)
        sampled_with(self._model, self.sampling.temperature, self.sampling.top_p)
        loaded = [(number, problem) for number, source in enumerate(self.problems) for problem in source.load()]
        self.cleaned = self.cleaning.clean([problem for _, problem in loaded], self._held_out)
        kept = [loaded[position] for position in self.cleaned.kept]
        encoded = encode_prompts([problem for _, problem in kept], self.template, self.tokenizer, self.longest_prompt)
        self.prompts = {prompt.index: prompt for prompt in encoded.prompts}
        self.dropped_too_long = encoded.too_long
        # The pool's state holds indices of prompts, which are valid for exactly these prompts.
        self._fingerprint = fingerprint(encoded.prompts)
        check_same(self._fingerprint, "data: training problems")
        sets = [[index for index in self.prompts if kept[index][0] == number] for number in range(len(self.problems))]
        self.pool = PromptPool(self.prompts if self.weights is None else sets, self.seed, self.weights)

    def train_dataloader(self, listener: RolloutListener | None = None) -> DataLoader[IterationBatch]:
        """One element per iteration. The engine samples the rollouts, so that no worker processes are needed."""
        # A separate generator: by default an iterator draws from the global one, which would differ after a resume.
        return DataLoader(self.dataset(self, listener), batch_size=None, num_workers=0, generator=torch.Generator())

    def record(self, group: Group) -> None:
        """Records a group that counts with what later draws depend on."""
        self.responses_total += len(group.rollouts)
        self.draw_size.record(group.outcome is Outcome.KEPT)

    def end_iteration(self) -> dict[str, float]:
        """Adapts the sizes of draws to the iteration; returns figures for the log, the same on every rank."""
        self.draw_size.end_iteration()
        counts = dict(call_plugin(self.reward, "figures()", self.reward.figures))
        if hasattr(self.engine, "figures"):
            counts |= call_plugin(self.engine, "figures()", self.engine.figures)
        if self.dialogues is not None:
            counts |= self.dialogues.figures()
        totals = dict(zip(counts, sum_over_ranks(*counts.values()), strict=True))
        return {"prompts_cached": float(len(self.pool.cached)), **totals}

    def state_dict(self) -> dict[str, Any]:
        return {
            "iteration": self.iteration,
            "responses_total": self.responses_total,
            "prompts": self._fingerprint,
            "pool": self.pool.state_dict(),
            "draw_size": self.draw_size.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["prompts"] != self._fingerprint:
            raise UserError(
                f"data: the checkpoint was made with other training prompts ({state_dict['prompts'].split()[0]}) than "
                f"the configuration gives ({len(self.prompts)}); resume with the same data.problems, cleaning, "
                "template and max_prompt_tokens, and the same benchmarks"
            )
        self.iteration = state_dict["iteration"]
        self.responses_total = state_dict["responses_total"]
        self.pool.load_state_dict(state_dict["pool"])
        self.draw_size.load_state_dict(state_dict["draw_size"])


def _end_turns(policy: Policy, template: PromptTemplate) -> None:
    """Lets the end of an assistant's turn end a response, in the engines and wherever the policy is used later."""
    ends, turn_end = end_of_sequence_ids(policy.model), template.turn_end(policy.tokenizer)
    if turn_end is None:
        warnings.warn(
            f"the chat template ends an assistant's turn with no special token, so that a response ends with "
            f"{', '.join(map(repr, policy.tokenizer.convert_ids_to_tokens(ends)))} or at the limit; name the token of "
            "its end, if there is one, as eos_token_id in the policy's generation_config.json",
            stacklevel=2,
        )
    elif turn_end not in ends:
        policy.model.generation_config.eos_token_id = [*ends, turn_end]


def _check_sizes(group_size: int, iteration: int, update: int, draw: int | None, draws: int) -> None:
    if group_size < 2:
        raise UserError(f"data: group_size is {group_size}; a contrast needs at least 2 responses per prompt")
    if min(iteration, update, draws, 1 if draw is None else draw) < 1:
        raise UserError(
            "data: prompts_per_iteration, prompts_per_update, prompts_per_draw and max_draws_per_iteration must be >= 1"
        )
    if iteration % update:
        raise UserError(
            f"data: prompts_per_iteration {iteration} is not a multiple of prompts_per_update {update}: "
            f"{iteration} / {update} = {iteration / update:.2f} updates per iteration; change one of the two"
        )
    if draw is not None and draw * draws < iteration:
        raise UserError(
            f"data: prompts_per_draw {draw} x max_draws_per_iteration {draws} = {draw * draws} prompts can never "
            f"fill prompts_per_iteration {iteration}; raise one of the two"
        )
