"""From token ids to texts and scores, which are checked."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from transformers import PreTrainedTokenizerBase

from rence_lightning.errors import call_plugin, invalid_return
from rence_lightning.prompts import Prompt
from rence_lightning.rewards import Response, Reward, Score
from rence_lightning.rollouts import Rollout


def responses_of(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, rollouts: Sequence[Rollout]) -> list[Response]:
    """The responses to a prompt as rewards and filters see them."""
    ids = [rollout.token_ids.tolist() for rollout in rollouts]
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    decode = partial(tokenizer.decode, clean_up_tokenization_spaces=False)
    asked = str(decode(list(prompt.token_ids)))
    return [
        Response(prompt.problem, text, rollout.token_ids, rollout.finish_reason, asked, decode)
        for text, rollout in zip(texts, rollouts, strict=True)
    ]


def scores_of(reward: Reward, responses: list[Response]) -> list[Score]:
    """The scores of the responses to one problem.

    Raises:
        PartError: The reward raised an error or returned something invalid.
    """
    doing = f"score(), problem {responses[0].problem.id}"
    scores = call_plugin(reward, doing, lambda: reward.score(responses))
    whole = isinstance(scores, Sequence) and len(scores) == len(responses)
    if not whole or not all(isinstance(score, Score) for score in scores):
        raise invalid_return(reward, doing, scores, f"a list of {len(responses)} Score, one per response")
    for score in scores:
        if not _is_finite(score.reward) or not 0 <= float(score.reward) <= 1:
            raise invalid_return(reward, doing, score.reward, "a reward from 0 to 1")
        if not isinstance(score.answer, str | None):
            raise invalid_return(reward, doing, score.answer, "an answer that is text, or None")
        if not all(_is_finite(part) for part in score.parts.values()):
            raise invalid_return(reward, doing, score.parts, "parts that are finite numbers")
    parts = [{name: float(part) for name, part in score.parts.items()} for score in scores]
    return [
        replace(score, reward=float(score.reward), correct=bool(score.correct), parts=each)
        for score, each in zip(scores, parts, strict=True)
    ]


def _is_finite(value: object) -> bool:
    try:
        return not isinstance(value, str) and math.isfinite(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
