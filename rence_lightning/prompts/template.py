"""The template: how a problem becomes the policy's prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

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


class PromptTemplate:
    """The instructions around a problem, and whether they are a user's turn in a chat.

    Args:
        text: The instructions, with `{problem}` exactly once where the problem goes; other braces mean themselves.
        chat: The text is one user turn, put through the tokenizer's chat template. False: it is plain text, which the
            policy continues.
        thinking: The chat template's thinking switch (Qwen3: false closes an empty thought in the policy's name).
            Templates without the switch ignore it.
        system: A system turn before the user's, for a chat.
    """

    def __init__(
        self, text: str = PAPER_TEMPLATE, chat: bool = True, thinking: bool = False, system: str | None = None
    ) -> None:
        if (count := text.count(_PLACEHOLDER)) != 1:
            raise UserError(
                f"template: text must contain {_PLACEHOLDER} exactly once, not {count} times: {text[:80]!r}"
            )
        if not chat and (thinking or system is not None):
            raise UserError("template: thinking and system are parts of a chat; remove them or set chat: true")
        self.text = text
        self.chat = chat
        self.thinking = thinking
        self.system = system
        self._before, _, self._after = text.partition(_PLACEHOLDER)

    def render(self, tokenizer: PreTrainedTokenizerBase, problem: str) -> str:
        """The prompt as text, to be read by people; what the policy gets are the tokens of `encode`."""
        if not self.chat:
            return self._fill(problem)
        return str(self._apply_chat_template(tokenizer, [problem], tokenize=False)[0])

    def encode(self, tokenizer: PreTrainedTokenizerBase, problem: str) -> list[int]:
        """The prompt's token ids, `(tokens,)`; see `encode_all`."""
        return self.encode_all(tokenizer, [problem])[0]

    def encode_all(self, tokenizer: PreTrainedTokenizerBase, problems: Sequence[str]) -> list[list[int]]:
        """The prompts' token ids, one list a problem, up to where the policy's response begins.

        Raises:
            UserError: `chat` is true and the tokenizer has no chat template, or its template refuses these turns.
        """
        if self.chat:
            return self._apply_chat_template(tokenizer, problems, tokenize=True)
        encoded = tokenizer([self._fill(problem) for problem in problems])["input_ids"]
        return [_without_final_eos(ids, tokenizer.eos_token_id) for ids in encoded]

    def _fill(self, problem: str) -> str:
        # Not str.format: problems are full of braces, and so are the instructions.
        return f"{self._before}{problem}{self._after}"

    def _apply_chat_template(self, tokenizer: PreTrainedTokenizerBase, problems: Sequence[str], tokenize: bool) -> Any:
        if not tokenizer.chat_template:
            raise UserError(
                f"template: chat is true, but the tokenizer {_name(tokenizer)} has no chat template; set the "
                "template's chat: false, or use a policy tuned for chat"
            )
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        chats = [[*system, {"role": "user", "content": self._fill(problem)}] for problem in problems]
        try:
            prompts: Any = tokenizer.apply_chat_template(
                chats, add_generation_prompt=True, tokenize=tokenize, return_dict=False, enable_thinking=self.thinking
            )
        except TemplateError as error:  # templates raise it on purpose, e.g. where they know no system turn
            raise UserError(
                f"template: the chat template of the tokenizer {_name(tokenizer)} refuses the turns ({error}); drop "
                "the template's system turn if it has one, or set chat: false"
            ) from error
        return prompts


def _name(tokenizer: PreTrainedTokenizerBase) -> str:
    return str(tokenizer.name_or_path or type(tokenizer).__name__)


def _without_final_eos(token_ids: list[int], eos_token_id: int | None) -> list[int]:
    """Some tokenizers close every text with EOS, which would tell the policy that all has been said already."""
    ids = list(token_ids)
    while len(ids) > 1 and ids[-1] == eos_token_id:
        ids.pop()
    return ids
