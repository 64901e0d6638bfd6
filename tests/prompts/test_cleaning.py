"""Cleaning: what is left out, why, and what the account of it says; against brute force and against labelled data."""

import gzip
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rence_lightning.errors import UserError
from rence_lightning.prompts import Cleaning, FileProblems, Problem, cleaning
from rence_lightning.prompts.overlap import NGRAM, SHARE, OverlapIndex, normal_form

LONG = "A train leaves at 8 and arrives 3 hours later after a stop of 20 minutes in the town of Bern."
"""More words than an n-gram has."""


def problems(*rows: str | tuple[str, str]) -> list[Problem]:
    pairs = [row if isinstance(row, tuple) else (row, "1") for row in rows]
    return [Problem(f"p{number}", text, answer, "set") for number, (text, answer) in enumerate(pairs)]


def held_out(text: str) -> dict[str, list[Problem]]:
    return {"bench": [Problem("b0", text, "1", "bench")]}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Find $x$ if  $2x=4$.", "find x if 2x = 4"),
        (r"What is $\dfrac{1}{2}\left(3\right)$?", r"What is $\frac{1}{2}(3)$"),
        (r"\(a \leq b\)", r"$a \le b$"),
    ],
)
def test_typesetting_does_not_tell_problems_apart(one: str, other: str) -> None:
    assert normal_form(one) == normal_form(other)


@pytest.mark.parametrize(("one", "other"), [("76-4=?", "76+4=?"), ("x^2", "x_2"), ("12", "1 2 3"), ("a<b", "a>b")])
def test_mathematics_does(one: str, other: str) -> None:
    assert normal_form(one) != normal_form(other)


def test_copies_go_and_the_first_stays_and_contradictory_ones_all_go() -> None:
    rows = [("Two?", "4"), ("What is 3+3?", "6"), ("two", "4"), ("Which?", "1"), ("which", "2"), ("Which ?", "1")]
    cleaned = Cleaning().clean(problems(*rows, ("An angle?", "83"), ("An angle?", r"083^\circ")), {})
    assert cleaned.kept == [0, 1, 6]
    assert [(each.problem.id, each.reason, each.because_of) for each in cleaned.findings] == [
        ("p2", "duplicate", ("p0",)),
        *(("p3", "conflict", ("p4", "p5")), ("p4", "conflict", ("p3", "p5")), ("p5", "conflict", ("p3", "p4"))),
        ("p7", "duplicate", ("p6",)),
    ]
    assert cleaned.lines() == ["training problems: 3 of 8; left out: 2 duplicates, 3 copies with different answers"]


def test_switched_off_nothing_goes() -> None:
    cleaning = Cleaning(duplicates="keep", conflicts="keep", contaminated="keep")
    cleaned = cleaning.clean(problems(("Two?", "2"), ("Two?", "2"), ("Two?", "3"), LONG), held_out(LONG))
    assert cleaned.kept == [0, 1, 2, 3]
    assert [each.problem.id for each in cleaned.findings if each.kept] == ["p3"]
    assert "NOT left out" in cleaned.lines()[-1]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (LONG.upper(), "exact"),
        (f"Read this. {LONG} Give m+n.", "contained"),
        (LONG.replace("in the town of Bern", "in a town, namely Bern").replace(".", ". How long?"), "near"),
        (LONG.replace("20", "25"), None),
        ("Something else entirely, of about as many words as the problem that is held out, one hopes.", None),
    ],
)
def test_overlaps_are_of_three_kinds(text: str, kind: str | None) -> None:
    found = OverlapIndex(held_out(LONG)).find(text)
    assert [overlap.kind for overlap in found] == ([kind] if kind else [])


def test_contaminated_problems_are_counted_by_benchmark() -> None:
    cleaned = Cleaning().clean(problems(LONG, f"{LONG} Explain.", "Another?"), held_out(LONG))
    assert cleaned.kept == [2]
    assert cleaned.contamination() == {"bench": {"problems": 1, "contained": 1, "exact": 1}}
    assert cleaned.lines()[-1].endswith("left out: 1 of bench")
    assert json.loads(json.dumps(cleaned.record()))["details"][0]["overlaps"] == [
        {"kind": "exact", "benchmark": "bench", "id": "b0"}
    ]


def test_scripts_and_nothing_left() -> None:
    texts = ("Find Δ in $\\frac{1}{2}$.", "设 $f(x)=\\left|x^{2}\\right|$, 求 $f(0)$", "Où est Zoë ?", "2+2")
    assert Cleaning(script="latin").clean(problems(*texts), {}).kept == [0, 2, 3]
    assert Cleaning(script="cjk").clean(problems(*texts), {}).kept == [1, 3]
    with pytest.raises(UserError, match=r"none of the 1 training problems is left \(1 contaminated\); .*part: test"):
        Cleaning().clean(problems(LONG), held_out(LONG))


words = st.lists(st.sampled_from(["aaa", "bbb", "ccc", "ddd", "1", "2", "x", "y"]), min_size=0, max_size=24).map(
    " ".join
)


@given(training=words, benchmarks=st.lists(words, min_size=1, max_size=4))
def test_the_index_finds_what_brute_force_finds(training: str, benchmarks: list[str]) -> None:
    def ngrams(text: str) -> set[str]:
        parts = text.split()
        return {" ".join(parts[i : i + NGRAM]) for i in range(len(parts) - NGRAM + 1)}

    def brute(benchmark: str) -> str | None:
        joined, wanted = training.replace(" ", ""), benchmark.replace(" ", "")
        if joined == wanted:
            return "exact"
        shared = len(ngrams(training) & ngrams(benchmark))
        if not shared:
            return None
        if wanted in joined:
            return "contained"
        numbers = all(training.split().count(digit) >= benchmark.split().count(digit) for digit in "12")
        return "near" if shared >= SHARE * len(ngrams(benchmark)) and numbers else None

    index = OverlapIndex({"b": [Problem(str(i), text, "1") for i, text in enumerate(benchmarks)]})
    found = {overlap.problem.id: overlap.kind for overlap in index.find(training)}
    expected = {str(i): kind for i, text in enumerate(benchmarks) if (kind := brute(text)) is not None}
    assert found == expected


BENCHMARK_FILES = {
    "math500": "math500",
    "aime2024": "aime2024",
    "aime2025": "aime2025",
    "amc": "amc_aimo_validation",
    "minerva": "minerva_math",
    "olympiadbench": "olympiadbench_oe_to_maths_en",
}


@pytest.fixture
def benchmarks(data_folder: Path) -> dict[str, list[Problem]]:
    files = {name: data_folder / "eval" / f"{file}.jsonl" for name, file in BENCHMARK_FILES.items()}
    return {name: FileProblems(str(path)).load() for name, path in files.items()}


@pytest.mark.data
@pytest.mark.parametrize("file", ["dapo_math_17k", "math_train_7500", "math_test_minus_math500_4500"])
def test_every_labelled_overlap_is_found(file: str, data_folder: Path, benchmarks: dict[str, list[Problem]]) -> None:
    path = data_folder / "train" / f"{file}.jsonl.gz"
    labelled: set[tuple[str, str]] = set()
    with gzip.open(path, "rt") as lines:
        for row in map(json.loads, lines):
            labelled |= {(row["id"], o["id"]) for o in row.get("overlaps", []) if o["kind"] != "sibling"}
    # Only contamination: a copy is otherwise left out as a copy, and its overlaps are not looked at.
    cleaning = Cleaning(duplicates="keep", conflicts="keep")
    cleaned = cleaning.clean(FileProblems(str(path)).load(), benchmarks)
    found = {(each.problem.id, overlap.problem.id) for each in cleaned.findings for overlap in each.overlaps}
    assert labelled <= found
    assert len(found) <= 1.3 * len(labelled) + 3
    dropped = {each.problem.id for each in cleaned.findings}
    assert {training for training, _ in labelled} <= dropped


@pytest.mark.data
def test_dapo_and_math_are_cleaned_to_the_same_problems_each_time(
    data_folder: Path, benchmarks: dict[str, list[Problem]]
) -> None:
    paths = [data_folder / "train" / f"{name}.jsonl.gz" for name in ("dapo_math_17k", "math_train_7500")]
    mix = [problem for path in paths for problem in FileProblems(str(path)).load()]
    cleaned = Cleaning(script="latin").clean(mix, benchmarks)
    assert Cleaning(script="latin").clean(mix, benchmarks) == cleaned
    dapo = sum(mix[position].id.startswith("dapo/") for position in cleaned.kept)
    assert 13_000 < dapo < 13_400
    assert cleaned.contamination()["amc"]["problems"] >= 38
    assert cleaned.contamination()["olympiadbench"]["problems"] >= 52
    chinese = [position for position in cleaned.kept if re.search("[一-鿿]{3}", mix[position].problem)]
    assert len(chinese) < 10  # English problems with a name or a remark in Chinese


def test_the_work_does_not_grow_with_the_square_of_the_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some data sets hold a hundred copies of each problem."""
    read: list[str] = []
    form = cleaning._answer_form
    monkeypatch.setattr(cleaning, "_answer_form", lambda answer: (read.append(answer), form(answer))[1])
    cleaned = Cleaning().clean(problems(*[LONG] * 100), {})
    assert cleaned.kept == [0]
    assert cleaned.counts == {"duplicate": 99}
    assert len(read) == 100
