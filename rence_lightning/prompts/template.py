"""The template, which turns a problem into the prompt of the policy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rence_lightning.errors import UserError

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


class PromptTemplate:
    """The instructions around a problem, as one turn of a chat or as plain text.

    Args:
        text: Instructions that contain `{problem}` exactly once, in place of the problem; other braces are literal.
        chat: Whether the text is a user turn in the tokenizer's chat template, or plain text that the policy continues.
        thinking: Value of `enable_thinking` for the chat template (with false, Qwen3 starts its response after an empty
            thought); templates without this variable ignore it.
        system: Text of a system turn before the user turn of a chat.

    Raises:
        UserError: The text does not contain `{problem}` exactly once or contains a line break that is written as a
            backslash and an n, or a part of a chat is given for plain text.
    """

    def __init__(
        self, text: str = PAPER_TEMPLATE, chat: bool = True, thinking: bool = False, system: str | None = None
    ) -> None:
        if (count := text.count(_PLACEHOLDER)) != 1:
            raise UserError(
                f"template: text must contain {_PLACEHOLDER} exactly once, not {count} times: {text[:80]!r}"
            )
        if escape := _LITERAL_ESCAPE.search(text):
            what = "line break" if escape.group().endswith("n") else "tab"
            example = f"{_PLACEHOLDER}{escape.group()}"
            raise UserError(
                f"template: text contains {escape.group()} as two characters, a backslash and a letter; write a {what} "
                f"as $'{example}' in a shell, and as \"{example}\" (in double quotes) in YAML"
            )
        if not chat and (thinking or system is not None):
            raise UserError("template: thinking and system are parts of a chat; remove them or set chat: true")
        self.text = text
        self.chat = chat
        self.thinking = thinking
        self.system = system
        self._before, _, self._after = text.partition(_PLACEHOLDER)

    def render(self, tokenizer: PreTrainedTokenizerBase, problem: str) -> str:
        """The prompt as text for people to read. The policy receives the tokens of `encode`."""
        if not self.chat:
            return self._fill(problem)
        return str(self._apply_chat_template(tokenizer, [problem], tokenize=False)[0])

    def encode(self, tokenizer: PreTrainedTokenizerBase, problem: str) -> list[int]:
        """The token ids of the prompt, `(tokens,)`; see `encode_all`."""
        return self.encode_all(tokenizer, [problem])[0]

    def encode_all(self, tokenizer: PreTrainedTokenizerBase, problems: Sequence[str]) -> list[list[int]]:
        """The token ids of each prompt, up to the start of the response.

        Raises:
            UserError: `chat` is true and the tokenizer has no chat template, or its template refuses these turns.
        """
        if self.chat:
            return self._apply_chat_template(tokenizer, problems, tokenize=True)
        encoded = tokenizer([self._fill(problem) for problem in problems])["input_ids"]
        return [_without_final_eos(ids, tokenizer.eos_token_id) for ids in encoded]

    def _fill(self, problem: str) -> str:
        # Not str.format, because problems and instructions contain braces.
        return f"{self._before}{problem}{self._after}"

    def _apply_chat_template(self, tokenizer: PreTrainedTokenizerBase, problems: Sequence[str], tokenize: bool) -> Any:
        from jinja2 import TemplateError

        if not tokenizer.chat_template:
            raise UserError(
                f"template: chat is true, but the tokenizer {_name(tokenizer)} has no chat template; set the "
                "template's chat: false, or use a policy that is tuned for chat"
            )
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        chats = [[*system, {"role": "user", "content": self._fill(problem)}] for problem in problems]
        try:
            prompts: Any = tokenizer.apply_chat_template(
                chats, add_generation_prompt=True, tokenize=tokenize, return_dict=False, enable_thinking=self.thinking
            )
        except TemplateError as error:  # raised by the template itself, e.g. where it supports no system turn
            raise UserError(
                f"template: the chat template of the tokenizer {_name(tokenizer)} refuses the turns ({error}); "
                "remove the template's system turn if it has one, or set chat: false"
            ) from error
        return prompts


def _name(tokenizer: PreTrainedTokenizerBase) -> str:
    return str(tokenizer.name_or_path or type(tokenizer).__name__)


def _without_final_eos(token_ids: list[int], eos_token_id: int | None) -> list[int]:
    """Removes the EOS token with which some tokenizers end every text, because the response continues the text."""
    ids = list(token_ids)
    while len(ids) > 1 and ids[-1] == eos_token_id:
        ids.pop()
    return ids
