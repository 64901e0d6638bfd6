"""The registry of benchmarks: rows in the hub's schemas, names, counts, and the local copies."""

import json
from pathlib import Path
from typing import Any

import pytest

from rence_lightning.errors import UserError
from rence_lightning.evaluation import BENCHMARKS, BenchmarkFile, load_benchmark
from rence_lightning.prompts import FileProblems
from rence_lightning.rewards import MathReward, Response

SCHEMAS: dict[str, dict[str, Any]] = {
    "math500": {"problem": "p", "solution": r"\boxed{3}", "answer": "3", "unique_id": "test/algebra/{i}.json"},
    "aime2024": {"id": 60, "problem": "p", "solution": "s", "answer": "204", "url": "u", "year": "2024"},
    "aime2025": {"problem": "p", "answer": "70", "id": "0"},
    "amc": {"id": 0, "problem": "p", "answer": 142.0, "url": "u"},
    "minerva": {"question": "q", "answer": "4.5e33"},
    "olympiadbench": {"id": 1606, "question": "q", "final_answer": [r"$\frac{1}{2 n+2}$"], "solution": ["s"]},
    "gsm8k": {"question": "q", "answer": "so <<1+1=2>>2\n#### 1,200"},
}
"""A row of each data set on the hub; ids that are numbers are replaced by the row's number."""

ANSWERS = {
    "math500": "3",
    "aime2024": "204",
    "aime2025": "70",
    "amc": "142",
    "minerva": r"4.5e33 \pm 5E+31",
    "olympiadbench": r"\frac{1}{2 n+2}",
    "gsm8k": "1200",
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """A hub whose data sets repeat one row; the returned dictionary sets the number of rows of a data set."""
    import datasets

    counts: dict[str, int] = {}
    names = {benchmark.hub: name for name, benchmark in BENCHMARKS.items()}

    def load_dataset(name: str, *_: Any, **__: Any) -> datasets.Dataset:
        benchmark = names[name]
        row = SCHEMAS[benchmark]
        rows = []
        for i in range(counts.get(benchmark, BENCHMARKS[benchmark].counts[0])):
            numbers = {key: type(row[key])(i) for key in ("id",) if key in row}
            unique = {"unique_id": row["unique_id"].format(i=i)} if "unique_id" in row else {}
            rows.append({**row, **numbers, **unique})
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return counts


@pytest.mark.parametrize("name", BENCHMARKS)
def test_hub_rows_become_problems(name: str, hub: dict[str, int]) -> None:
    problems = load_benchmark(name)
    assert len(problems) == len({problem.id for problem in problems}) == BENCHMARKS[name].counts[0]
    assert {problem.answer for problem in problems} == {ANSWERS[name]}
    assert {problem.problem for problem in problems} == {"p" if "problem" in SCHEMAS[name] else "q"}


def test_a_changed_hub_copy_is_refused(hub: dict[str, int]) -> None:
    hub["olympiadbench"] = 675
    assert len(load_benchmark("olympiadbench")) == 675
    hub["olympiadbench"] = 910
    with pytest.raises(UserError, match="has 910 problems, not 674 or 675"):
        load_benchmark("olympiadbench")


def test_unknown_names_get_a_suggestion() -> None:
    with pytest.raises(
        UserError, match=r"'Math-500' is unknown \(did you mean math500\?\); known are math500, aime2024"
    ):
        load_benchmark("Math-500")
    with pytest.raises(UserError, match="benchmark 'zzz' is unknown; known are"):
        load_benchmark("zzz")


def test_any_name_goes_with_a_source(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"problem": "p", "answer": "1"}\n')
    assert len(load_benchmark("mine", FileProblems(str(path)))) == 1
    assert len(load_benchmark("math500", FileProblems(str(path)))) == 1


@pytest.mark.parametrize("name", BENCHMARKS)
def test_files_with_the_hubs_fields_are_read_like_the_hub(name: str, tmp_path: Path, hub: dict[str, int]) -> None:
    import datasets

    rows = datasets.load_dataset(BENCHMARKS[name].hub).to_list()
    path = tmp_path / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    from_file, from_hub = BenchmarkFile(name, str(path)).load(), load_benchmark(name)
    assert [(p.problem, p.answer) for p in from_file] == [(p.problem, p.answer) for p in from_hub]
    plain = [{"problem": p.problem, "answer": "7"} for p in from_hub]
    path.write_text("".join(json.dumps(row) + "\n" for row in plain))
    assert {p.answer for p in BenchmarkFile(name, str(path)).load()} == {"7"}
    path.write_text(json.dumps(plain[0]) + "\n")
    with pytest.raises(UserError, match=f"{name}.jsonl has 1 problems, not {BENCHMARKS[name].counts[0]}"):
        BenchmarkFile(name, str(path)).load()


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("math500", "math500"),
        ("aime2024", "aime2024"),
        ("aime2025", "aime2025"),
        ("amc", "amc_aimo_validation"),
        ("minerva", "minerva_math"),
        ("olympiadbench", "olympiadbench_oe_to_maths_en"),
        ("gsm8k", "gsm8k_test"),
    ],
)
def test_local_copies_have_the_right_counts(name: str, file: str, data_folder: Path) -> None:
    path = str(data_folder / "eval" / f"{file}.jsonl")
    problems = load_benchmark(name, BenchmarkFile(name, path))
    assert len(problems) in BENCHMARKS[name].counts
    # Every reference answer is graded as correct when it is boxed unchanged.
    reward = MathReward(workers=2)
    scores = reward.score([Response(p, f"so \\boxed{{{p.answer}}}") for p in problems])
    reward.close()
    assert all(score.correct for score in scores)
