"""From problems to prompts: order, indices, the limit, and ids."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rence_lightning.errors import UserError
from rence_lightning.prompts import Problem, PromptTemplate, encode_prompts

TEMPLATE = PromptTemplate("{problem}", chat=False)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word: the number it is."""
    words = Tokenizer(models.WordLevel({str(i): i for i in range(10)}, unk_token="0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="0")


def problems(*texts: str, source: str = "s") -> list[Problem]:
    return [Problem(f"{source}/{i}", text, "1", source) for i, text in enumerate(texts)]


def test_too_long_prompts_are_dropped_and_counted_and_indices_stay(tokenizer: PreTrainedTokenizerFast) -> None:
    given = problems("1 2", "1 2 3 4", "5", "6 7 8")
    encoded = encode_prompts(given, TEMPLATE, tokenizer, max_prompt_tokens=3)
    assert [(prompt.index, prompt.token_ids) for prompt in encoded.prompts] == [(0, (1, 2)), (2, (5,)), (3, (6, 7, 8))]
    assert all(prompt.problem is given[prompt.index] for prompt in encoded.prompts)
    assert encoded.too_long == 1


def test_no_prompt_is_an_error_with_the_numbers(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match=r"all 2 are longer than 2 tokens, the limit of .* \(the shortest has 3 with"):
        encode_prompts(problems("1 2 3", "1 2 3 4"), TEMPLATE, tokenizer, max_prompt_tokens=2)
    with pytest.raises(UserError, match="no problems"):
        encode_prompts([], TEMPLATE, tokenizer, max_prompt_tokens=8)


def test_equal_ids_of_two_sources_are_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    given = [*problems("1", source="a"), *problems("2", source="b"), Problem("a/0", "3", "1", "c")]
    with pytest.raises(UserError, match="the id 'a/0' is both in 'a' and in 'c'"):
        encode_prompts(given, TEMPLATE, tokenizer, max_prompt_tokens=8)
