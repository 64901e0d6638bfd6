"""Environments end to end: what is replied, who wrote what, failures, and that a run with one is exact."""

import asyncio
import csv
import json
import random
import re
import sys
import time
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from arithmetic_run import SAMPLING, fresh_start, make_data, make_module, make_trainer, small_evaluation
from hypothesis import given
from hypothesis import strategies as st
from tiny_tokenizers import QWEN_LIKE, byte_tokenizer
from two_processes import in_two_processes

from rence_lightning.callbacks import Checkpoint
from rence_lightning.distributed import connect, disconnect
from rence_lightning.environments import Calculator, Environment, TurnLimits
from rence_lightning.errors import UserError
from rence_lightning.prompts import Problem, Prompt, PromptTemplate
from rence_lightning.report import write_report
from rence_lightning.rollouts import Rollout
from rence_lightning.sampling.dialogue import Dialogues
from rence_lightning.sampling.grading import GradingThread
from rence_lightning.sampling.scoring import responses_of
from rence_lightning.training.trainer import Trainer

EQUALS = 16
"""The token of the embedded policy's equals sign."""


class Sums(Calculator):
    """The result of each step of a chain, after its equals sign: `76+4=` is continued with `80`."""

    blocks = True

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__("", "=")
        self.seconds = seconds

    def reply(self, turn: str) -> str | None:
        time.sleep(self.seconds)
        return super().reply(turn)


class AsyncSums(Sums):
    async def reply(self, turn: str) -> str | None:  # type: ignore[override]
        await asyncio.sleep(self.seconds)
        return Calculator.reply(self, turn)


class Broken(Sums):
    """Fails in one way, for some responses."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def start(self, problem: Problem, seed: int) -> None:
        self.fails = seed % 3 == 0

    def reply(self, turn: str) -> Any:
        if not self.fails or "=" not in turn:
            return super().reply(turn)
        if self.how == "hangs":
            time.sleep(5)
        return {"raises": lambda: 1 // 0, "exits": sys.exit, "number": lambda: 80, "long": lambda: "1" * 10_000}[
            self.how
        ]()


def rows(run_dir: Path, name: str) -> list[float]:
    with (run_dir / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def sampled(environment: Environment | None, **settings: Any) -> Any:
    """An iteration of groups from the embedded policy, as the trainer sees it, without training."""
    fresh_start()
    module, data = make_module(), make_data(environment=environment, **settings)
    module.configure_model()
    data.connect(module.policy)
    data.setup("fit")
    return data, next(iter(data.train_dataloader()))


@pytest.mark.parametrize("kind", [Sums, AsyncSums])
def test_a_tool_within_the_turn_is_read_and_not_chosen(kind: type) -> None:
    data, batch = sampled(kind())
    for group in batch.sampled:
        for rollout, text in zip(group.rollouts, group.responses, strict=True):
            written = [data.tokenizer.decode(rollout.token_ids[first : last + 1]) for first, last in rollout.replies]
            parts = re.split("[⟦⟧]", text)
            assert written == parts[1::2] and len(rollout.log_probs) == rollout.chosen_tokens
            for turn, reply in zip(parts[::2], written, strict=False):
                expression = re.fullmatch(r".*?([0-9+-]+)=", turn, re.DOTALL)
                assert expression is not None and int(reply) == eval(expression[1])


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("raises", "raised ZeroDivisionError: "),
        ("exits", "raised SystemExit"),
        ("number", "returned '80', not a text or None"),
        ("hangs", "took longer than 1 s"),
    ],
)
def test_a_reply_that_fails_ends_its_response_and_nothing_else(how: str, says: str) -> None:
    with pytest.warns(UserWarning, match=f"environment: Broken, problem .*: {says}.*; the response ends there"):
        _, batch = sampled(Broken(how), turns=TurnLimits(reply_seconds=1.0 if how == "hangs" else 60.0))
    failed = [rollout for group in batch.sampled for rollout in group.rollouts if rollout.token_ids[-1] == EQUALS]
    assert batch.figures["environment_failures"] >= len(failed) > 3  # others are of groups that do not count
    assert batch.sums["replied"] > 10 and len(batch.groups) == 6


def test_where_no_tool_is_called_the_share_is_zero() -> None:
    _, batch = sampled(Scripted(str, stop=()), turns=TurnLimits(max_turns=1))
    assert [batch.metrics()[name] for name in ("replied", "replies", "reply_tokens")] == [0, 0, 0]


def test_a_long_reply_is_cut_and_the_number_of_turns_is_limited() -> None:
    _, batch = sampled(Broken("long"), turns=TurnLimits(max_turns=3, max_reply_tokens=5))
    rollouts = [rollout for group in batch.sampled for rollout in group.rollouts]
    lengths = [last + 1 - first for rollout in rollouts for first, last in rollout.replies]
    assert max(lengths) == 5 and batch.figures["replies_cut"] >= lengths.count(5) > 3
    assert max(len(rollout.replies) for rollout in rollouts) == 2
    assert {rollout.finish_reason for rollout in rollouts if rollout.token_ids[-1] == EQUALS} == {"stop"}


@pytest.mark.parametrize("kind", [Sums, AsyncSums])
def test_replies_are_waited_for_at_the_same_time(kind: type) -> None:
    """64 responses of up to five turns, of which each waits for half a second."""
    data, _ = sampled(None)
    data.dialogues = Dialogues(kind(0.5), data.turns, data.template, data.tokenizer, [2])
    data.sampler._dialogues = data.dialogues
    begun = time.monotonic()
    draw = data.sampler.sample([data.prompts[number] for number in range(8)], 8, SAMPLING, lambda _: "stream")
    replies = [len(rollout.replies) for group in draw.groups for rollout in group.rollouts]
    assert sum(replies) > 100 and time.monotonic() - begun < 0.5 * (max(replies) + 1) + 5 < 0.1 * 0.5 * sum(replies) + 5


def test_an_engine_of_ones_own_needs_to_know_nothing_of_turns() -> None:
    """The one of docs/extending.md, whose responses have other random numbers."""
    page = (Path(__file__).parents[2] / "docs" / "extending.md").read_text()
    namespace: dict[str, Any] = {}
    exec(re.search(r"```python\n(# my_engine\.py\n.*?)```", page, re.S)[1], namespace)  # type: ignore[index]
    _, batch = sampled(Sums(), engine=namespace["OneByOne"](), prompts_per_draw=2, max_draws_per_iteration=3)
    replies = [text for group in batch.sampled for text in group.responses if "⟦" in text]
    assert len(replies) > 20 and batch.figures["environment_failures"] == 0


class Dice(Sums):
    """Results that are wrong by a number that is drawn."""

    def start(self, problem: Problem, seed: int) -> None:
        self.chance = random.Random(seed)

    def reply(self, turn: str) -> str | None:
        result = super().reply(turn)
        return str(int(result) + self.chance.choice([0, 0, 0, 1])) if result else result


def test_a_run_is_exact_and_resumes_to_the_bit(tmp_path: Path) -> None:
    """With an environment that draws; the engine and the trainer see the same tokens."""

    def fit(name: str, iterations: int, ckpt_path: str | None = None) -> Trainer:
        fresh_start()
        evaluation = small_evaluation(every=1)
        trainer = make_trainer(tmp_path / name, [evaluation, Checkpoint(every=1)], max_iterations=iterations)
        trainer.fit(make_module(), make_data(environment=Dice()), ckpt_path)
        return trainer

    whole, first = fit("whole", 3), fit("parts", 1)
    parts = fit("parts", 3, str(first.run_dir))
    for one, other in zip(*(each.lightning_module.policy.parameters() for each in (whole, parts)), strict=True):
        assert torch.equal(one, other)
    for name in ("rollouts/mismatch_abs", "rollouts/mismatch_abs_max"):
        assert max(rows(whole.run_dir, name)) < 1e-5
    for name in ("rollouts/reply_tokens", "rollouts/replies", "rollouts/replied", "rollouts/length"):
        assert rows(whole.run_dir, name) == rows(parts.run_dir, name) and min(rows(whole.run_dir, name)) > 0.5
    logged = [json.loads(line) for line in (whole.run_dir / "rollouts/iteration-0001.jsonl").read_text().splitlines()]
    assert any("⟦" in response["text"] for group in logged for response in group["responses"])
    page = write_report(whole.run_dir).read_text()
    assert "Responses with a reply" in page and "had replies of the environment" in page and "⟦" in page
    (samples,) = (whole.run_dir / "evaluations/iteration-0003").glob("arithmetic*")
    assert "\\u27e6" in samples.read_text() or "⟦" in samples.read_text()


def described(batch: Any) -> Any:
    return [
        (group.prompt.problem.id, group.responses, [list(each.token_ids) for each in group.rollouts], group.rewards)
        for group in batch.sampled
    ]


def sample_as(rank: int, expected: Any) -> None:
    dist.init_process_group("gloo", rank=rank, world_size=2)
    connect()
    assert described(sampled(Dice())[1]) == expected
    disconnect()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_sample_what_one_samples() -> None:
    in_two_processes(sample_as, described(sampled(Dice())[1]))


# ---- one response, by itself ----


class Scripted(Environment):
    """Replies with what a function gives, within a turn after `=` or after a turn."""

    def __init__(self, function: Any, stop: Any = ("=",), blocks: bool = True) -> None:
        self.function, self.stop, self.blocks = function, stop, blocks

    def reply(self, turn: str) -> Any:
        return self.function(turn)


class AsyncGame(Environment):
    """Needs a `start` that is waited for."""

    async def start(self, problem: Problem, seed: int) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        self.secret = problem.answer

    async def reply(self, turn: str) -> str | None:  # type: ignore[override]
        return self.secret


BYTES = byte_tokenizer()


def answer(environment: Environment, turn: str, template: str | None = None, ids: Sequence[int] = ()) -> Any:
    """What is replied to a turn, as text; None where the response ends."""
    tokenizer = byte_tokenizer(template) if template else BYTES
    dialogues = Dialogues(environment, TurnLimits(), PromptTemplate("{problem}", chat=None), tokenizer, [1])
    thread = GradingThread()
    try:
        replies = dialogues.to(Prompt(0, Problem("p", "?", "7"), (5,)), lambda number: number, thread)
        reply = replies(0, array("i", [*tokenizer(turn).input_ids, *ids])).result(10)
    finally:
        thread.close()
    return None if reply is None else tokenizer.decode(reply)


def fails_by_itself(turn: str) -> str:
    raise TimeoutError("the server is down")


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        (Scripted(fails_by_itself), "raised TimeoutError: the server is down"),
        (Scripted(lambda turn: "half a character: \udcff"), "raised UnicodeEncodeError: "),
    ],
)
def test_a_reply_that_cannot_be_used_ends_its_response(environment: Environment, says: str) -> None:
    with pytest.warns(UserWarning, match=f"environment: Scripted, problem p: {says}"):
        assert answer(environment, "1+1=") is None


def test_a_chat_template_may_write_a_reply_in_its_own_way() -> None:
    """As Llama 3.1 does with those of tools."""
    quoting = QWEN_LIKE.replace("m['content']", "(m['content'] | tojson)")
    written = answer(Scripted(lambda turn: 'say "hi"\n'), "Hello", quoting, ids=[1])
    assert r'"say \"hi\"\n"' in written


@given(st.text(st.sampled_from("a\u00e9 \U0001f600<|eos>"), max_size=60), st.integers(1, 8))
def test_a_reply_is_cut_at_its_first_tokens(text: str, most: int) -> None:
    """Without encoding all of a huge one."""
    limits = TurnLimits(max_reply_tokens=most)
    dialogues = Dialogues(Scripted(str), limits, PromptTemplate("{problem}", chat=None), BYTES, [1])
    encode, seen = dialogues._within, []
    dialogues._within = lambda reply: seen.append(len(reply)) or encode(reply)
    assert dialogues.encoded(text, within=True) == encode(text)[:most]
    assert dialogues.encoded("0" * 10**6, within=True) == encode("0") * most and max(seen) <= 64


def test_a_role_that_the_chat_template_leaves_out_is_refused() -> None:
    users = "{% for m in messages if m['role'] != 'tool' %}<{{ m['content'] }}>{% endfor %}"
    game = Scripted(str)
    game.role = "tool"
    with pytest.raises(UserError, match="leaves a turn of the role 'tool' out; let the environment reply in the role"):
        answer(game, "Hello", users)


def test_an_environment_may_wait_in_its_start_too() -> None:
    assert answer(AsyncGame(), "Hello", ids=[1]) == "7"


def test_ids_that_the_tokenizer_does_not_have_do_not_join_what_is_beside_them() -> None:
    turns: list[str] = []
    answer(Scripted(lambda turn: turns.append(turn)), "4", ids=[len(BYTES) + 3, *BYTES("1=").input_ids])
    assert turns == ["4\N{REPLACEMENT CHARACTER}1="]


def test_one_text_in_place_of_several_is_refused() -> None:
    with pytest.raises(UserError, match="environment: stop is '>>'; give a list of texts"):
        answer(Scripted(lambda turn: None, stop=">>"), "1>>")


def test_a_token_that_ends_a_response_is_not_one_at_which_a_tool_may_be_called() -> None:
    dialogues = Dialogues(Scripted(str, stop=("<<",)), TurnLimits(), PromptTemplate("{problem}", chat=None), BYTES, [1])
    assert BYTES.convert_tokens_to_ids("<") in dialogues.stop_ids and 1 not in dialogues.stop_ids  # <eos>


def test_a_reward_sees_turns_as_lines() -> None:
    """The guesses 4 and 2 are no answer 42."""
    ids = [*BYTES("4").input_ids, 1, *BYTES("higher2").input_ids, 1]
    rollout = Rollout(array("i", ids), array("f", [0.0] * 4), "stop", ((2, 7),))
    (response,) = responses_of(BYTES, Prompt(0, Problem("p", "?", "42"), (5,)), [rollout])
    assert (response.text, response.transcript) == ("4\n2", "4⟦higher⟧2")
