r"""The last `\boxed{...}`, against a reference that looks at one opening at a time and counts braces."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rence_lightning.errors import did_you_mean, nearest
from rence_lightning.parts import last_boxed


def naive_last_boxed(text: str) -> str | None:
    """For each opening from the last to the first: walk to the brace that closes it. Quadratic, and plain."""
    plain = re.sub(r"\\[\\{}]", "\0\0", text)  # same length, escaped characters hidden
    for index in range(len(text) - 1, -1, -1):
        opening = re.match(r"boxed\s*\{", plain[index:])
        if opening is None or index == 0 or text[index - 1] != "\\":
            continue
        begin = index + opening.end()
        depth = 1
        for position in range(begin, len(plain)):
            depth += {"{": 1, "}": -1}.get(plain[position], 0)
            if depth == 0:
                return text[begin:position]
    return None


PIECES = ["\\boxed{", "\\boxed {", "boxed{", "\\", "{", "}", "}}", "\\{", "\\}", "\\\\", "a", " ", "\\fbox{", "\n"]


@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_agrees_with_the_naive_search(text: str) -> None:
    assert last_boxed(text) == naive_last_boxed(text)


@given(st.text())
def test_finds_any_answer_without_braces(answer: str) -> None:
    answer = re.sub(r"[{}\\]", "", answer)
    assert last_boxed(f"so \\boxed{{1}}, no: \\boxed{{{answer}}}.") == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{1} so \boxed{2}", "2"),
        (r"\boxed{1} so \boxed{2", "1"),
        (r"\boxed{\boxed{3}+1}", "3"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{a\\}", r"a\\"),
        (r"\\boxed{5}", "5"),
        (r"\boxed {4}", "4"),
        (r"\boxed{}", ""),
        (r"} \boxed{7} {", "7"),
        (r"\boxed 4", None),
        (r"\fbox{4}", None),
        ("boxed{4}", None),
        ("", None),
        ("42", None),
    ],
)
def test_documented_choices(text: str, answer: str | None) -> None:
    assert last_boxed(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("{" * 100_000, None),
        ("\\boxed{" * 15_000, None),
        ("\\boxed{1}" + "\\boxed{" * 15_000, "1"),
        ("\\boxed{" * 15_000 + "}" * 15_000, ""),
        ("\\" * 100_000, None),
        ("\\boxed" + " " * 100_000, None),
        ("\\boxed{" + "{" * 20_000 + "x" + "}" * 20_000 + "}", "{" * 20_000 + "x" + "}" * 20_000),
    ],
    ids=["open braces", "open boxes", "a box, then open boxes", "nested boxes", "backslashes", "blanks", "deep braces"],
)
def test_is_linear_in_hostile_text(text: str, answer: str | None) -> None:
    begin = time.process_time()
    assert last_boxed(text) == answer
    assert time.process_time() - begin < 2.0  # some 50 ms; a search per opening takes minutes


def test_a_typo_is_answered_with_the_nearest_known_name() -> None:
    assert did_you_mean("group_siz", ["group_size", "seed"]) == " (did you mean group_size?)"
    assert did_you_mean("verbose", ["group_size", "seed"]) == ""
    assert nearest("sed", ["group_size", "seed"], cutoff=0.95) is None
