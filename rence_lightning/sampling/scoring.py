"""From token ids to texts and scores, which are checked."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby, pairwise

from transformers import PreTrainedTokenizerBase

from rence_lightning.errors import invalid_return, plugin_errors
from rence_lightning.prompts import Prompt
from rence_lightning.rewards import FunctionReward, Response, Reward, Score
from rence_lightning.rewards.reward import DECIMALS
from rence_lightning.rewards.waiting import scores_by
from rence_lightning.rollouts import Rollout

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""Character in place of a token id, or of bytes, that is no text."""

PADDED = (
    "the policy samples token ids that its tokenizer does not have, because its vocabulary is padded; each is graded as"
    " the character U+FFFD, and rollouts/undecodable is the share of responses with that character"
)


def responses_of(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, rollouts: Sequence[Rollout]) -> list[Response]:
    """The responses to a prompt as rewards and filters see them: without replies, which may not join what is beside
    them (the guesses 4 and 2 are no answer 42), each turn begins a line."""
    asked, responses = text_of(tokenizer, prompt.token_ids), []
    for each in rollouts:
        places = [0, *(place for first, last in each.replies for place in (first, last + 1)), len(each.token_ids)]
        parts = [each.token_ids[first:last] for first, last in pairwise(places)]  # turn, reply, turn, ...
        texts, raw = ([text_of(tokenizer, part, skip) for part in parts] for skip in (True, False))
        ids = each.token_ids[:]  # a copy: the policy is trained on the tokens, whatever a reward does with these
        written = "\n".join(texts[::2]), ids, each.finish_reason, asked, "".join(raw)
        responses.append(Response(prompt.problem, *written, tuple(texts[::2]), tuple(texts[1::2])))
    return responses


def text_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
    """The text of token ids, with a replacement character for each that the tokenizer does not have. It decodes to
    nothing: 4, such an id and 1 would be a right answer to 40 + 1."""
    unknown = {each for each in set(ids) if tokenizer.convert_ids_to_tokens(each) is None}
    if unknown:
        warnings.warn(PADDED, stacklevel=2)
    settings = {"skip_special_tokens": skip_special_tokens, "clean_up_tokenization_spaces": False}
    runs = [(lost, list(run)) for lost, run in groupby(ids, key=unknown.__contains__)]
    parts = (REPLACEMENT * len(run) if lost else str(tokenizer.decode(run, **settings)) for lost, run in runs)
    return "".join(parts)


async def scores_of(reward: Reward, responses: list[Response]) -> list[Score]:
    """The scores of the responses to one problem.

    Raises:
        PartError: The reward raised an error or returned something invalid.
    """
    doing = f"score(), problem {responses[0].problem.id}"
    with plugin_errors(reward, doing):
        scores = await scores_by(reward, responses)
    named = reward.function if isinstance(reward, FunctionReward) else reward  # the user knows the function
    whole = isinstance(scores, Sequence) and len(scores) == len(responses)
    if not whole or not all(isinstance(score, Score) for score in scores):
        raise invalid_return(named, doing, scores, f"a list of {len(responses)} Score, one per response")
    checked = []
    for score in scores:
        if not _is_finite(score.reward) or not 0 <= round(float(score.reward), DECIMALS) <= 1:
            raise invalid_return(named, doing, score.reward, "a reward from 0 to 1")
        if not isinstance(score.answer, str | None):
            raise invalid_return(named, doing, score.answer, "an answer that is text, or None")
        if not all(map(_is_finite, score.parts.values())):
            raise invalid_return(named, doing, score.parts, "parts that are finite numbers")
        parts = {name: float(value) for name, value in score.parts.items()}
        number = round(float(score.reward), DECIMALS)
        checked.append(replace(score, reward=number, correct=bool(score.correct), parts=parts))
    return checked


def _is_finite(value: object) -> bool:
    try:
        return not isinstance(value, str) and math.isfinite(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
