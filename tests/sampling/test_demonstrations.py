"""Demonstrations: where solutions come from, their tokens, and those that cannot be learned."""

import warnings
from pathlib import Path
from typing import Any

import pytest
from arithmetic_run import make_data
from tiny_models import EOS, tiny_model
from tiny_tokenizers import QWEN_LIKE, byte_tokenizer
from transformers import GenerationConfig

from rence_lightning.errors import UserError
from rence_lightning.policy import Policy, load_policy
from rence_lightning.prompts import ArithmeticProblems, FileProblems, ListProblems, PromptTemplate, TwoNumberProblems
from rence_lightning.rollouts import Sampling
from rence_lightning.sampling.demonstrations import DemonstrationDataModule

POLICY = load_policy("embedded:arithmetic")


def prepared(rows: Any, limit: int = 64, policy: Policy = POLICY, held_out: Any = (), **settings: Any) -> Any:
    """A data module after its setup, of rows or a source."""
    source = ListProblems(rows) if isinstance(rows, list) else rows
    settings = {"sampling": Sampling(max_response_tokens=limit), **settings}
    data = make_data(DemonstrationDataModule, problems=[source], **settings)
    data.connect(policy)
    data.hold_out({"test": list(held_out)})
    data.setup("fit")
    return data


def row(number: int, solution: Any = r"1+1=2,\boxed{2}", **fields: Any) -> dict[str, Any]:
    return {"problem": f"1+{number}=?", "answer": str(1 + number), "solution": solution, **fields}


def tokens(data: Any) -> list[list[int]]:
    return [group.rollouts[0].token_ids.tolist() for group in data.demonstrations.values()]


def test_a_demonstration_is_the_solution_and_the_end_of_sequence() -> None:
    data = prepared([row(1), row(2, "1+2=3")])
    ends = POLICY.tokenizer.eos_token_id
    texts = [POLICY.tokenizer.decode(ids[:-1]) for ids in tokens(data)]
    assert texts == [r"1+1=2,\boxed{2}", "1+2=3"] and all(ids[-1] == ends not in ids[:-1] for ids in tokens(data))


def test_settings_of_sampling_are_those_of_the_exported_policy_alone(tmp_path: Path) -> None:
    policy = load_policy("embedded:arithmetic")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = prepared([row(1)], policy=policy, sampling=Sampling(0.0, top_p=0.9, max_response_tokens=64))
        policy.model.generation_config.save_pretrained(tmp_path)
    assert tokens(data) == tokens(prepared([row(1)]))
    assert not GenerationConfig.from_pretrained(tmp_path).do_sample


def test_a_solution_that_is_too_long_is_left_out_and_counted() -> None:
    """The limit counts the token that ends the response."""
    rows = [row(1), row(2, "1+1+1+1=4"), row(2, "1+1+1+1=4"), row(3, "1+3=4")]
    longest = len(POLICY.tokenizer("1+1+1+1=4")["input_ids"]) + 1
    assert len(prepared(rows[1:], longest).prompts) == 2
    data = prepared(rows[1:], longest - 1)
    assert [prompt.problem.problem for prompt in data.prompts.values()] == ["1+3=?"]
    assert data.cleaned.lines() == [
        "training problems: 1 of 3; left out: 1 duplicates, 1 whose solution is too long for "
        "data.sampling.max_response_tokens"
    ]
    assert data.cleaned.record()["kept"] == 1 and data.pool.draw(9) == [*data.prompts]
    with pytest.raises(UserError, match=r"all 2 solutions are longer than sampling\.max_response_tokens, 2"):
        prepared(rows[1:], 2)


@pytest.mark.parametrize("solution", [None, "", " \n", 2, ["1+1"]])
def test_a_row_without_a_solution_is_named(solution: Any, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^problems: problem problems/2 \('1\+2=\?'\) has no solution .* solution_field"
    ):
        prepared([row(1), row(2, solution)])
    (tmp_path / "gsm.csv").write_text("problem,answer,steps\n1+1,2,1+1=2\n")
    with pytest.raises(UserError, match=r"^gsm: problem gsm/1 .* its fields are problem, answer, steps: name the one"):
        prepared(FileProblems(str(tmp_path / "gsm.csv")))
    assert len(prepared(FileProblems(str(tmp_path / "gsm.csv"), solution_field="steps")).prompts) == 1


def test_whole_solutions_as_gsm8k_has_them_and_chats_without_answers() -> None:
    gsm = [{"question": "1+1=?", "answer": "1+1=<<1+1=2>>2\n#### 2"}]
    fields = {"problem_field": "question", "answer_format": "gsm8k", "solution_field": "answer"}
    [problem] = ListProblems(gsm, **fields).load()
    assert (problem.answer, problem.solution) == ("2", gsm[0]["answer"])
    turns = [("system", "Add."), ("user", "1+1"), ("assistant", "3"), ("user", "no"), ("assistant", " 2")]
    chat = [{"role": role, "content": text} for role, text in turns]
    [problem] = ListProblems([{"messages": chat}], messages_field="messages", answer_field="").load()
    assert (problem.problem, problem.messages, problem.solution) == ("no", tuple(chat[:-1]), " 2")
    [problem] = ListProblems([{"messages": chat[:2], "solution": "2", "answer": "2"}], messages_field="messages").load()
    assert (problem.messages, problem.solution) == (tuple(chat[:2]), "2")


@pytest.mark.parametrize("source", [ArithmeticProblems("train", count=50), TwoNumberProblems("train")])
def test_generated_problems_come_with_solutions_that_end_in_the_answer(source: Any) -> None:
    for problem in source.load():
        assert problem.solution.removesuffix("}").endswith(("{", " ", problem.answer))
        assert problem.solution.removesuffix("}").endswith(problem.answer)


def chat_policy(template: str = QWEN_LIKE) -> Policy:
    tokenizer = byte_tokenizer(template)
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.pad_token = "<eos>"
    model = tiny_model()
    model.resize_token_embeddings(len(tokenizer))
    model.generation_config.eos_token_id = EOS
    return Policy(model, tokenizer)


@pytest.mark.parametrize("chat", [True, False])
def test_a_response_ends_as_the_policy_s_do(chat: bool) -> None:
    """In a chat with the token that ends a turn, elsewhere with the end of a sequence; the prompt is that of `fit`."""
    policy = chat_policy()
    template = PromptTemplate("{problem}", chat=chat)
    data = prepared([row(1)], policy=policy, template=template, max_prompt_tokens=100)
    [ids] = tokens(data)
    end = "<|im_end|>" if chat else "<eos>"
    assert policy.tokenizer.decode(ids) == rf"1+1=2,\boxed{{2}}{end}"
    [group] = data.demonstrations.values()
    [problem] = ListProblems([row(1)]).load()
    assert [*group.prompt.token_ids] == template.encode_all(policy.tokenizer, [problem])[0]


def test_special_tokens_that_a_solution_spells_are_text_and_the_policy_s_own_tags_are_tokens() -> None:
    policy = chat_policy()
    text = "<think>one<|im_end|>two</think>2<eos>"
    template = PromptTemplate("{problem}", chat=True)
    with pytest.warns(UserWarning, match=r"solutions spell special tokens, .* as text: \['<eos>', '<\|im_end\|>'\]"):
        data = prepared([row(1, text)], policy=policy, template=template, max_prompt_tokens=100)
    [ids] = tokens(data)
    assert policy.tokenizer.decode(ids) == f"{text}<|im_end|>"
    special = {policy.tokenizer.convert_tokens_to_ids(each) for each in ("<|im_end|>", "<eos>")}
    assert not special & {*ids[:-1]} and ids[-1] in special
    assert ids[0] == policy.tokenizer.convert_tokens_to_ids("<think>")


def test_another_solution_is_another_training_set() -> None:
    """A checkpoint knows its demonstrations, also where the solution is in no field of the row."""
    first, other = (
        prepared([row(1, steps="1+1")]),
        prepared(ListProblems([row(1, steps="1+1")], solution_field="steps")),
    )
    with pytest.raises(UserError, match="other training prompts"):
        other.load_state_dict(first.state_dict())


def test_held_out_problems_without_a_solution_or_with_a_long_one_have_no_loss() -> None:
    held_out = ListProblems([row(5), row(6, None), row(7, "1" * 70)]).load()
    data = prepared([row(1)], held_out=held_out)
    assert [group.prompt.problem.problem for group in data.held_out] == ["1+5=?"]
    assert prepared([row(1)]).held_out == []
