"""The template, which turns a problem into the prompt of the policy. A problem may carry instructions of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rence_lightning.errors import UserError
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


class PromptTemplate(Configurable):
    """The instructions around a problem, as one turn of a chat or as plain text.

    Args:
        text: Instructions that contain `{problem}` exactly once, in place of the problem; other braces are literal.
        chat: Whether the text is a user turn in the tokenizer's chat template, or plain text that the policy continues;
            null chooses the chat wherever the tokenizer has a chat template.
        thinking: Value of `enable_thinking` for the chat template (with false, Qwen3 starts its response after an empty
            thought); templates without this variable ignore it.
        system: Text of a system turn before the user turn of a chat.

    Raises:
        UserError: The text does not contain `{problem}` exactly once or contains a line break that is written as a
            backslash and an n, or a part of a chat is given for plain text.
    """

    def __init__(
        self, text: str = PAPER_TEMPLATE, chat: bool | None = True, thinking: bool = False, system: str | None = None
    ) -> None:
        _check_placeholder(text, "template: text")
        if escape := _LITERAL_ESCAPE.search(text):
            what, example = "line break" if escape[0] == r"\n" else "tab", f"{_PLACEHOLDER}{escape[0]}"
            raise UserError(
                f"template: text contains {escape[0]} as two characters, a backslash and a letter; write a {what} "
                f"as $'{example}' in a shell, and as \"{example}\" (in double quotes) in YAML"
            )
        if chat is False and (thinking or system is not None):
            raise UserError("template: thinking and system are parts of a chat; remove them or set chat: true")
        self.text, self.chat, self.thinking, self.system = text, chat, thinking, system

    def render(self, tokenizer: PreTrainedTokenizerBase, problem: Problem) -> str:
        """The prompt as text for people to read. The policy receives the tokens of `encode_all`."""
        if not self.is_chat(tokenizer):
            return self._plain(problem)
        return str(self._apply_chat_template(tokenizer, [problem], tokenize=False)[0])

    def encode_all(self, tokenizer: PreTrainedTokenizerBase, problems: Sequence[Problem]) -> list[list[int]]:
        """The token ids of each prompt, up to the start of the response.

        Raises:
            UserError: `chat` is true and the tokenizer has no chat template, or its template refuses these turns; or a
                problem has turns of its own, and the prompt is plain text.
        """
        if self.is_chat(tokenizer):
            return self._apply_chat_template(tokenizer, problems, tokenize=True)
        encoded: list[list[int]] = tokenizer([self._plain(problem) for problem in problems])["input_ids"]
        for ids in encoded:  # some tokenizers end every text with EOS, but the response continues the text
            while len(ids) > 1 and ids[-1] == tokenizer.eos_token_id:
                ids.pop()
        return encoded

    def is_chat(self, tokenizer: PreTrainedTokenizerBase) -> bool:
        """Whether prompts are chats with this tokenizer."""
        return bool(tokenizer.chat_template) if self.chat is None else self.chat

    def _fill(self, problem: Problem) -> str:
        text = self.text if problem.template is None else problem.template
        _check_placeholder(text, f"problem {problem.id}: its template")
        return text.replace(_PLACEHOLDER, problem.problem)  # not str.format: instructions contain braces

    def _plain(self, problem: Problem) -> str:
        if problem.messages or problem.system is not None:
            raise UserError(
                f"problem {problem.id}: it has turns of its own, which plain text has not; set the template's chat: "
                "true, with a policy that has a chat template, or name no messages_field and no system_field"
            )
        return self._fill(problem)

    def _chat(self, problem: Problem) -> list[dict[str, str]]:
        if problem.messages:
            return [dict(turn) for turn in problem.messages]
        system = self.system if problem.system is None else problem.system
        turns = [] if system is None else [{"role": "system", "content": system}]
        return [*turns, {"role": "user", "content": self._fill(problem)}]

    def _apply_chat_template(
        self, tokenizer: PreTrainedTokenizerBase, problems: Sequence[Problem], tokenize: bool
    ) -> Any:
        from jinja2 import TemplateError

        name = tokenizer.name_or_path or type(tokenizer).__name__
        if not tokenizer.chat_template:
            raise UserError(
                f"template: chat is true, but the tokenizer {name} has no chat template; set the "
                "template's chat: false, or use a policy that is tuned for chat"
            )
        chats = [self._chat(problem) for problem in problems]
        try:
            return tokenizer.apply_chat_template(
                chats, add_generation_prompt=True, tokenize=tokenize, return_dict=False, enable_thinking=self.thinking
            )
        except TemplateError as error:  # raised by the template itself, e.g. where it supports no system turn
            raise UserError(
                f"template: the chat template of the tokenizer {name} refuses the turns ({error}); "
                "remove the template's system turn if it has one, or set chat: false"
            ) from error


def _check_placeholder(text: str, what: str) -> None:
    if (count := text.count(_PLACEHOLDER)) != 1:
        raise UserError(f"{what} must contain {_PLACEHOLDER} exactly once, not {count} times: {text[:80]!r}")
