"""Real reference answers written in other ways are right, and changed in their mathematics they are wrong."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from rence_lightning.rewards.grading.equivalence import equivalent


def _fractions(answer: str) -> str:
    return re.sub(r"\\[dt]?frac\{([^{}\\]*)\}\{([^{}\\]*)\}", r"(\1)/(\2)", answer)


SPELLINGS: dict[str, Callable[[str], str]] = {
    "plain fraction": lambda a: _fractions(a) if re.fullmatch(r"-?\\[dt]?frac\{\d+\}\{\d+\}", a) else a,
    "plain root": lambda a: re.sub(r"\\sqrt\{(\d+)\}", r"sqrt(\1)", a),
    "unicode pi": lambda a: a.replace(r"\pi", "π"),
    "unicode minus": lambda a: re.sub(r"^-(?=\d)", "\N{MINUS SIGN}", a),
    "dollars": lambda a: f"${a}$",
    "bold": lambda a: rf"\mathbf{{{a}}}" if re.fullmatch(r"[\d.]+", a) else a,
    "scientific": lambda a: re.sub(r"^(-?[\d.]+)e(-?\d+)$", r"\1 \\times 10^{\2}", a),
    "degrees": lambda a: a.replace(r"^\circ", "°").replace(r"^{\circ}", "°"),
    "variable": lambda a: f"x = {a}" if re.fullmatch(r"-?[\d.]+", a) else a,
    "inequality": lambda a: re.sub(r"^\[([^,\[\]()]+),([^,\[\]()]+)\]$", r"\1 \\le x \\le \2", a),
    "set": lambda a: rf"\{{{a}\}}" if re.fullmatch(r"-?\d+(, ?-?\d{1,2})+", a) else a,
}


def _other_digit(answer: str, rng: random.Random) -> str:
    places = [match.start() for match in re.finditer(r"\d", answer)]
    place = rng.choice(places) if places else None
    if place is None:
        return answer
    return f"{answer[:place]}{(int(answer[place]) + rng.randrange(1, 9)) % 10}{answer[place + 1 :]}"


CHANGES: dict[str, Callable[[str, random.Random], str]] = {
    "digit": _other_digit,
    "sign": lambda a, rng: f"-{a}" if re.fullmatch(r"[\d.]*[1-9][\d.]*", a) else a,
    "power": lambda a, rng: f"{a}^2" if re.fullmatch(r"\d*[2-9]\d*", a) else a,
    "another": lambda a, rng: f"{a}, 977" if "," not in a and "=" not in a else a,
    "upside down": lambda a, rng: re.sub(r"^\\frac\{(\d+)\}\{(\d+)\}$", r"\\frac{\2}{\1}", a),
    "order": lambda a, rng: re.sub(r"^\((-?\d+), ?(-?\d+)\)$", lambda m: f"({m[2]},{m[1]})", a),
    "bracket": lambda a, rng: re.sub(r"^\[(.*),(.*)\]$", r"(\1,\2]", a) if "infty" not in a else a,
}


@pytest.fixture
def references(data_folder: Path) -> list[str]:
    files = ("math500", "minerva_math", "olympiadbench_oe_to_maths_en")
    lines = [line for file in files for line in (data_folder / "eval" / f"{file}.jsonl").read_text().splitlines()]
    return [answer for answer in dict.fromkeys(json.loads(line)["answer"] for line in lines) if ",\\!" not in answer]


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_another_spelling_is_right(spelling: str, references: list[str]) -> None:
    rewritten = [(answer, SPELLINGS[spelling](answer)) for answer in references]
    pairs = [pair for pair in rewritten if pair[0] != pair[1]]
    pairs = random.Random(0).sample(pairs, min(25, len(pairs)))
    assert pairs, "the test needs references with such a spelling"
    assert [pair for pair in pairs if not equivalent(*pair)] == []


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_other_mathematics_is_wrong(change: str, references: list[str]) -> None:
    rng = random.Random(0)
    changed = [(answer, CHANGES[change](answer, rng)) for answer in references]
    pairs = [pair for pair in changed if pair[0] != pair[1]]
    assert pairs
    pairs = rng.sample(pairs, min(60, len(pairs)))
    # Two values may be one another's change: a set of signs, a pair of equal numbers, a digit of a root's square.
    assert len([pair for pair in pairs if equivalent(*pair)]) <= (2 if change == "digit" else 0)
