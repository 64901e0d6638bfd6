"""The template's text, its two ways to a prompt's tokens, and tokenizers that cannot do what is asked."""

from typing import Any

import pytest
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from rence_lightning.errors import UserError
from rence_lightning.prompts import PAPER_TEMPLATE, Problem, PromptTemplate

SPECIAL = ["<bos>", "<eos>", "<|im_start|>", "<|im_end|>"]
QWEN_LIKE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{{ messages[0]['content'] }}"
)
PROBLEM = r"Find \frac{1}{2} + {x} in {problem} %s {0}"


def byte_tokenizer(chat_template: str | None = None, single: str | None = None) -> PreTrainedTokenizerFast:
    """One token a byte, and the special ones; `single` puts special tokens around every text."""
    vocab = {token: i for i, token in enumerate([*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    if single is not None:
        ids = [(token, vocab[token]) for token in ("<bos>", "<eos>")]
        tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=ids)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>")
    fast.chat_template = chat_template
    return fast


def asking(text: str, **own: Any) -> Problem:
    return Problem("p", text, "2", **own)


def encode(template: PromptTemplate, tokenizer: PreTrainedTokenizerFast, problem: Problem) -> list[int]:
    return template.encode_all(tokenizer, [problem])[0]


def test_the_papers_text() -> None:
    assert PAPER_TEMPLATE == (
        r"Please solve the following math problem: {problem}. The assistant first thinks about the reasoning process "
        r"step by step and then provides the user with the answer. Return the final answer in \boxed{} tags, for "
        r"example \boxed{1}. Let's solve this step by step."
    )
    assert PAPER_TEMPLATE.isascii()


def test_a_chat_is_one_user_turn_with_thinking_off() -> None:
    tokenizer = byte_tokenizer(QWEN_LIKE)
    user = PAPER_TEMPLATE.replace("{problem}", "1+1")
    expected = f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    template = PromptTemplate()
    assert template.render(tokenizer, asking("1+1")) == expected
    assert tokenizer.decode(encode(template, tokenizer, asking("1+1"))) == expected


def test_the_thinking_switch_and_the_system_turn() -> None:
    tokenizer = byte_tokenizer(QWEN_LIKE)
    template = PromptTemplate("{problem}", thinking=True, system="Be brief.")
    assert tokenizer.decode(encode(template, tokenizer, asking("1+1"))) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1+1<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("chat", [True, False])
def test_braces_mean_themselves_and_many_problems_are_encoded_as_each_alone(chat: bool) -> None:
    tokenizer = byte_tokenizer("{{ messages[0]['content'] }}")
    template = PromptTemplate(r"{problem} in \boxed{}", chat=chat)
    problems = [asking("1+1"), asking(PROBLEM), asking("求 π")]
    for problem, ids in zip(problems, template.encode_all(tokenizer, problems), strict=True):
        assert ids == encode(template, tokenizer, problem)
        assert tokenizer.decode(ids) == template.render(tokenizer, problem) == rf"{problem.problem} in \boxed{{}}"


@pytest.mark.parametrize(
    ("single", "expected"),
    [(None, "1+1=?"), ("<bos> $A", "<bos>1+1=?"), ("<bos> $A <eos>", "<bos>1+1=?"), ("$A <eos> <eos>", "1+1=?")],
)
def test_plain_text_keeps_a_bos_and_never_ends_in_eos(single: str | None, expected: str) -> None:
    tokenizer = byte_tokenizer(single=single)
    ids = encode(PromptTemplate("{problem}=?", chat=False), tokenizer, asking("1+1"))
    assert tokenizer.decode(ids) == expected


def test_a_chat_template_that_is_missing_or_refuses_is_reported() -> None:
    with pytest.raises(UserError, match="has no chat template; set the template's chat: false"):
        encode(PromptTemplate(), byte_tokenizer(), asking("1+1"))
    tokenizer = byte_tokenizer(NO_SYSTEM)
    assert PromptTemplate("{problem}").render(tokenizer, asking("1+1")) == "1+1"
    with pytest.raises(UserError, match=r"refuses the turns \(no system role\)"):
        encode(PromptTemplate("{problem}", system="Be brief."), tokenizer, asking("1+1"))


@pytest.mark.parametrize("text", ["Solve it.", "{problem} and {problem}", "{ problem }"])
def test_the_placeholder_must_occur_exactly_once(text: str) -> None:
    with pytest.raises(UserError, match=r"text must contain \{problem\} exactly once"):
        PromptTemplate(text)


@pytest.mark.parametrize("options", [{"thinking": True}, {"system": "Be brief."}])
def test_plain_text_has_no_parts_of_a_chat(options: dict) -> None:
    with pytest.raises(UserError, match="parts of a chat"):
        PromptTemplate(chat=False, **options)


@pytest.mark.parametrize(
    ("text", "escape"), [(r"{problem}\n\n", r"\n"), (r"{problem} \n.", r"\n"), (r"Q:\t{problem}", r"\t")]
)
def test_an_escape_in_single_quotes_is_refused_with_the_ways_to_write_one(text: str, escape: str) -> None:
    """A shell passes `'{problem}\\n'` on as a backslash and an n, which the policy has never seen."""
    with pytest.raises(UserError, match="as two characters") as caught:
        PromptTemplate(text, chat=False)
    in_yaml = f'"{{problem}}{escape}"'
    assert f"$'{{problem}}{escape}'" in str(caught.value) and in_yaml in str(caught.value)
    assert yaml.safe_load(in_yaml) == f"{{problem}}{escape.encode().decode('unicode_escape')}"


@pytest.mark.parametrize(
    "text",
    ["{problem}\n", "{problem}\t", r"\nabla {problem}", r"\text{a} {problem}", r"\to {problem}", r"a \\n {problem}"],
)
def test_line_breaks_and_latex_commands_are_accepted(text: str) -> None:
    assert PromptTemplate(text, chat=False).render(byte_tokenizer(), asking("1+1")) == text.replace("{problem}", "1+1")


def test_a_problem_may_bring_its_own_turns_system_and_instructions() -> None:
    tokenizer = byte_tokenizer("{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}")
    template = PromptTemplate("{problem}=?", system="Be brief.")
    assert template.render(tokenizer, asking("1+1")) == "[system]Be brief.[user]1+1=?"
    assert template.render(tokenizer, asking("1+1", system="Shout.")) == "[system]Shout.[user]1+1=?"
    assert template.render(tokenizer, asking("1+1", template="Add {problem}!")) == "[system]Be brief.[user]Add 1+1!"
    turns = [{"role": role, "content": text} for role, text in (("user", "1+1"), ("assistant", "3"), ("user", "No"))]
    own = asking("1+1", messages=turns)
    assert template.render(tokenizer, own) == "[user]1+1[assistant]3[user]No"
    assert tokenizer.decode(encode(template, tokenizer, own)) == template.render(tokenizer, own)
    plain = PromptTemplate("{problem}=?", chat=False)
    assert plain.render(tokenizer, asking("1+1", template="Add {problem}!")) == "Add 1+1!"
    for refused in (own, asking("1+1", system="Shout.")):
        with pytest.raises(UserError, match="problem p: it has turns of its own, which plain text has not"):
            encode(plain, tokenizer, refused)
    with pytest.raises(UserError, match=r"problem p: its template must contain \{problem\} exactly once"):
        encode(template, tokenizer, asking("1+1", template="Add."))


def test_a_chat_is_chosen_where_the_tokenizer_has_a_template() -> None:
    template = PromptTemplate("{problem}=?", chat=None)
    assert template.render(byte_tokenizer(), asking("1+1")) == "1+1=?"
    assert template.render(byte_tokenizer("<{{ messages[0]['content'] }}>"), asking("1+1")) == "<1+1=?>"
