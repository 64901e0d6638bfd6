"""The template, which turns a problem into the prompt of the policy. A problem may carry instructions of its own."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, cast

from rence_lightning.errors import UserError, shortened
from rence_lightning.parts import Configurable, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAPER_TEMPLATE = (
    "Please solve the following math problem: {problem}. The assistant first thinks about the reasoning process step "
    "by step and then provides the user with the answer. Return the final answer in \\boxed{} tags, for example "
    "\\boxed{1}. Let's solve this step by step."
)
"""The prompt of the paper's runs."""

_PLACEHOLDER = "{problem}"

_LITERAL_ESCAPE = re.compile(r"(?<!\\)\\[nt](?![A-Za-z])")
"""A backslash and an n or t as two characters. With a letter after it, it begins a LaTeX command, such as `\\nabla`;
with a backslash before it, it is the end of a LaTeX line break."""

_CUT = "\ufdd0"
"""Where the text of a prompt is encoded in two pieces; a code point that Unicode keeps out of texts."""

_DATE = re.compile(r"strftime_now\(\s*(?P<quote>['\"])(?P<format>.*?)(?P=quote)\s*\)")
"""Where a chat template writes the current date."""

_ANSWER = "\ufdd1"
"""Text of a turn of the assistant that shows how a chat template ends it, and what it writes after it."""


class PromptTemplate(Configurable):
    """The instructions around a problem, as one turn of a chat or as plain text.

    A control token that a problem spells out, such as `<|im_end|>`, reaches the policy as text. Those in `text` and
    `system`, which are the user's own, reach it as tokens.

    Args:
        text: Instructions that contain `{problem}` exactly once, in place of the problem; other braces are literal.
        chat: Whether the text is a user turn in the tokenizer's chat template, or plain text that the policy continues;
            null chooses the chat wherever the tokenizer has a chat template.
        arguments: Arguments of the tokenizer's chat template by name, such as `{reasoning_effort: low}`. Unless it is
            one of them, `enable_thinking` is false (Qwen3 then starts its response after an empty thought).
        system: Text of a system turn before the user turn of a chat.

    Attributes:
        started: Time that a chat template takes for the current one: the start of the run, so that a resumed run has
            the same prompts; None for the time of the call.

    Raises:
        UserError: The text does not contain `{problem}` exactly once or contains a line break that is written as a
            backslash and an n, or a part of a chat is given for plain text.
    """

    started: datetime | None = None

    def __init__(
        self,
        text: str = PAPER_TEMPLATE,
        chat: bool | None = True,
        arguments: dict[str, Any] | None = None,
        system: str | None = None,
    ) -> None:
        _check_placeholder(text, "template: text")
        if escape := _LITERAL_ESCAPE.search(text):
            what, example = "line break" if escape[0] == r"\n" else "tab", f"{_PLACEHOLDER}{escape[0]}"
            raise UserError(
                f"template: text contains {escape[0]} as two characters, a backslash and a letter; write a {what} "
                f"as $'{example}' in a shell, and as \"{example}\" (in double quotes) in YAML"
            )
        if chat is False and (arguments or system is not None):
            raise UserError("template: arguments and system are parts of a chat; remove them or set chat: true")
        self.text, self.chat, self.system = text, chat, system
        self.chat_arguments = {"enable_thinking": False, **(arguments or {})}

    def encode_all(self, tokenizer: PreTrainedTokenizerBase, problems: Sequence[Problem]) -> list[list[int]]:
        """The token ids of each prompt, up to the start of the response.

        Raises:
            UserError: `chat` is true and the tokenizer has no chat template, or its template refuses these turns or
                arguments; or a problem has turns of its own, and the prompt is plain text.
        """
        control, chat = _control_tokens(tokenizer, str(tokenizer.chat_template)), self.is_chat(tokenizer)
        pieces = [text.split(_CUT) for text in self.render(tokenizer, [_cut(each, control) for each in problems])]
        encoded: list[list[int]] = tokenizer([each[0] for each in pieces], add_special_tokens=not chat)["input_ids"]
        for ids, (_, *rest) in zip(encoded, pieces, strict=True):
            # Some tokenizers end every text with EOS, but the response continues the text.
            while not chat and len(ids) > 1 and ids[-1] == tokenizer.eos_token_id:
                ids.pop()
            for piece in rest:
                ids += tokenizer(piece, add_special_tokens=False)["input_ids"]
        return encoded

    def encode_solutions(
        self, tokenizer: PreTrainedTokenizerBase, solutions: Sequence[str], ends: Sequence[int]
    ) -> list[list[int]]:
        """The token ids of responses given as texts, each with the one of `ends` with which the policy is to end it.

        A special token that a solution spells out is text, with a warning. Other added tokens of the policy, such as
        `<think>`, are tokens.
        """
        special = _control_tokens(tokenizer, written="")
        if spelled := sorted({found for text in solutions for found in special.findall(text)}):
            warnings.warn(f"solutions spell special tokens, which are learned as text: {spelled}", stacklevel=2)
        likely = self.turn_end(tokenizer) if self.is_chat(tokenizer) else None, tokenizer.eos_token_id
        end: Any = next((each for each in likely if each in ends), ends[0])
        pieces = [_cut_text(text, special).split(_CUT) for text in solutions]
        encoded = iter(tokenizer(list(chain(*pieces)), add_special_tokens=False)["input_ids"])
        return [[*chain(*islice(encoded, len(each))), end] for each in pieces]

    def turn_end(self, tokenizer: PreTrainedTokenizerBase) -> int | None:
        """The token that ends a turn of the assistant in a chat; None where the chat template ends it otherwise."""
        chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _ANSWER}]
        try:
            _, answer, end = self._apply(tokenizer, [chat], add_generation_prompt=False)[0].rpartition(_ANSWER)
        except UserError:  # a template that takes no such turns
            return None
        ids, controls = tokenizer(end, add_special_tokens=False)["input_ids"], _control_ids(tokenizer)
        return next((each for each in ids if answer and each in controls), None)

    def reply_encoder(self, tokenizer: PreTrainedTokenizerBase, role: str | None) -> Callable[[str], list[int]]:
        """A function that gives the token ids of a reply to the policy, up to where its next turn starts.

        Control tokens that a reply spells out reach the policy as text. The function raises a `UserError` if the chat
        template refuses a turn of the role.

        Args:
            tokenizer: The policy's tokenizer.
            role: Role of the reply in the chat template, after a turn that the policy has ended with the token of
                `turn_end`. None is a reply within the turn, as plain text.
        """
        control, controls = _control_tokens(tokenizer, str(tokenizer.chat_template)), _control_ids(tokenizer)
        of_chat = role is not None and self.is_chat(tokenizer)
        ended = of_chat and self.turn_end(tokenizer) is not None  # the policy has written the end of its turn

        def encode(reply: str) -> list[int]:
            text = _cut_text(reply, control)
            if of_chat:
                turns = [("user", "?"), ("assistant", _ANSWER), (role, text)]
                chat = [{"role": str(each), "content": content} for each, content in turns]
                text = self._apply(tokenizer, [chat], add_generation_prompt=True)[0].partition(_ANSWER)[2]
            pieces = tokenizer(text.split(_CUT), add_special_tokens=False)["input_ids"]
            ids = list(chain(*pieces))
            return ids[1 + next((place for place, each in enumerate(ids) if each in controls), -1) :] if ended else ids

        return encode

    def is_chat(self, tokenizer: PreTrainedTokenizerBase) -> bool:
        """Whether prompts are chats with this tokenizer."""
        return bool(tokenizer.chat_template) if self.chat is None else self.chat

    def _fill(self, problem: Problem) -> str:
        text = self.text if problem.template is None else problem.template
        _check_placeholder(text, f"problem {problem.id}: its template")
        return text.replace(_PLACEHOLDER, problem.problem)  # not str.format: instructions contain braces

    def _chat(self, problem: Problem) -> list[dict[str, str]]:
        if problem.messages:
            return [dict(turn) for turn in problem.messages]
        system = self.system if problem.system is None else problem.system
        turns = [] if system is None else [{"role": "system", "content": system}]
        return [*turns, {"role": "user", "content": self._fill(problem)}]

    def render(self, tokenizer: PreTrainedTokenizerBase, problems: Sequence[Problem]) -> list[str]:
        """The prompts as text for people to read. The policy receives the tokens of `encode_all`."""
        if self.is_chat(tokenizer):
            chats = [self._chat(problem) for problem in problems]
            texts = self._apply(tokenizer, chats, add_generation_prompt=True)
            for problem, chat, text in zip(problems, chats, texts, strict=True):
                asked = [turn for turn in chat if turn["role"] != "assistant"]  # of which some templates cut thoughts
                whole = "".join(text.split())  # some templates take out empty lines
                if lost := [turn["role"] for turn in asked if "".join(turn["content"].split()) not in whole]:
                    what = f"the tokenizer's chat template leaves out its turn of the role {lost[0]!r}"
                    raise UserError(f"problem {problem.id}: {what}; rename the role, or remove the turn")
            return texts
        if own := next((each.id for each in problems if each.messages or each.system is not None), None):
            raise UserError(
                f"problem {own}: it has turns of its own, which plain text has not; set the template's chat: true, "
                "with a policy that has a chat template, or name no messages_field and no system_field"
            )
        return [self._fill(problem) for problem in problems]

    def _apply(
        self, tokenizer: PreTrainedTokenizerBase, chats: list[list[dict[str, str]]], add_generation_prompt: bool
    ) -> list[str]:
        """Chats as the tokenizer's chat template writes them."""
        from jinja2 import TemplateError, TemplateSyntaxError

        name = tokenizer.name_or_path or type(tokenizer).__name__
        if not tokenizer.chat_template:
            raise UserError(
                f"template: chat is true, but the tokenizer {name} has no chat template; set the "
                "template's chat: false, or use a policy that is tuned for chat"
            )
        for argument, value in self.chat_arguments.items():
            ignored = argument not in str(tokenizer.chat_template) and (argument != "enable_thinking" or value)
            if ignored or argument in ("messages", "add_generation_prompt"):
                raise UserError(
                    f"template: the chat template of the tokenizer {name} takes no argument {argument!r}; remove it "
                    "from the template's arguments, or correct its name"
                )
        clock = self.started or datetime.now()
        settings: dict[str, Any] = {"add_generation_prompt": add_generation_prompt, "tokenize": False}
        try:  # the date as text, because transformers gives the template no function that is an argument
            written = tokenizer.get_chat_template(tools=self.chat_arguments.get("tools"))
            settings["chat_template"] = _DATE.sub(lambda call: repr(clock.strftime(call["format"])), written)
            return cast(list[str], tokenizer.apply_chat_template(chats, **settings, **self.chat_arguments))
        except (TemplateError, TypeError, ValueError) as error:  # such as that of a template without system turns
            if len(chats) > 1:  # which of them is it?
                return [self._apply(tokenizer, [chat], add_generation_prompt)[0] for chat in chats]
            end = f"{chats[0][-1]['role']}: {shortened(chats[0][-1]['content'].replace(_CUT, ''))}"
            refused = f"turns that end with {end}" if isinstance(error, TemplateError) else "arguments"
            if isinstance(error, TemplateSyntaxError):
                line = f"line {error.lineno}: {written.splitlines()[error.lineno - 1].strip()}"
                raise UserError(f"template: the chat template of the tokenizer {name}, {line}: {error}") from error
            raise UserError(
                f"template: the chat template of the tokenizer {name} refuses the {refused} ({error}); remove system "
                "turns or arguments if there are any, let an environment reply in the role user, or set chat: false"
            ) from error


def _control_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    return {token for token, added in tokenizer.added_tokens_decoder.items() if added.content.strip()}


def _control_tokens(tokenizer: PreTrainedTokenizerBase, written: str) -> re.Pattern[str]:
    """What spells a control token: a special token, or an added one that is in a text, that of the chat template."""
    spelled = {
        each.content
        for each in tokenizer.added_tokens_decoder.values()
        if each.special or (each.content.strip() and each.content in written)
    }
    return re.compile("|".join(map(re.escape, sorted(spelled, key=len, reverse=True))) or "(?!)")


def _cut(problem: Problem, control: re.Pattern[str]) -> Problem:
    """The problem with a cut in each control token that it spells out, of which the pieces are encoded as text."""
    cut = partial(_cut_text, control=control)

    def turn(given: Mapping[str, str]) -> Mapping[str, str]:  # those of the assistant may hold its own tokens
        return given if given["role"] == "assistant" else {**given, "content": cut(given["content"])}

    system, template = problem.system and cut(problem.system), problem.template and cut(problem.template)
    messages = [turn(each) for each in problem.messages]
    return replace(problem, problem=cut(problem.problem), system=system, template=template, messages=messages)


def _cut_text(text: str, control: re.Pattern[str]) -> str:
    return control.sub(lambda found: f"{found[0][0]}{_CUT}{found[0][1:]}", text)


def _check_placeholder(text: str, what: str) -> None:
    if (count := text.count(_PLACEHOLDER)) != 1:
        raise UserError(f"{what} must contain {_PLACEHOLDER} exactly once, not {count} times: {text[:80]!r}")
