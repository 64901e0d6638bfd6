"""Data sets read from files of the forms in use, and what is said of rows that cannot be read."""

import gzip
import inspect
import json
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentParser

from rence_lightning.errors import UserError
from rence_lightning.prompts import FileProblems, HubProblems, ListProblems, Problem, ProblemSource
from rence_lightning.prompts.rows import RowSchema

DAPO_PREFIX = "Solve the following math problem step by step.\n\n"
DAPO_SUFFIX = '\n\nRemember to put your answer on its own line after "Answer:".'


def dapo_row(problem: str, answer: str, index: str) -> dict[str, Any]:
    """A row of the nested schema that verl's data sets have."""
    return {
        "data_source": "math_dapo",
        "prompt": [{"content": f"{DAPO_PREFIX}{problem}{DAPO_SUFFIX}", "role": "user"}],
        "reward_model": {"ground_truth": answer, "style": "rule"},
        "extra_info": {"index": index},
    }


def write_lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def without_fields(problems: list[Problem]) -> list[Problem]:
    return [replace(problem, fields={}) for problem in problems]


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return write_lines(
        tmp_path / "plain.jsonl",
        {"id": "a/1", "problem": "What is $1+1$?", "answer": "2"},
        {"id": "a/2", "problem": "求 π 的整数部分", "answer": "3"},
    )


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".parquet", ".csv"])
def test_other_kinds_of_file_read_the_same(plain: Path, tmp_path: Path, suffix: str) -> None:
    rows = [json.loads(line) for line in plain.read_text(encoding="utf-8").splitlines()]
    path = tmp_path / "other" / f"plain{suffix}"
    path.parent.mkdir()
    if suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif suffix == ".csv":
        path.write_text("".join(",".join(each) + "\n" for each in (rows[0], *(row.values() for row in rows))))
    else:
        path.write_bytes(gzip.compress(plain.read_bytes()))
    problems = FileProblems(str(path)).load()
    assert problems == FileProblems(str(plain)).load()
    assert problems[1] == Problem("a/2", "求 π 的整数部分", "3", "plain", rows[1])


def test_values_of_a_table_are_text_and_its_bad_lines_are_named(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text('problem,answer\n"a, ""b""\nc",007\nd,0.50\n')
    assert [(p.problem, p.answer) for p in FileProblems(str(path)).load()] == [('a, "b"\nc', "007"), ("d", "0.50")]
    path.write_text("problem,answer\np,1\nq\n")
    with pytest.raises(UserError, match=r"table\.csv, line 3: field 'answer' is null"):
        FileProblems(str(path)).load()
    path.write_text("problem,answer\np,1,2\n")
    with pytest.raises(UserError, match=r"table\.csv, line 2: more values than columns"):
        FileProblems(str(path)).load()


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_nested_rows_with_a_template_around_the_problem(tmp_path: Path, suffix: str) -> None:
    rows = [dapo_row("Find $x$.", "34", "u-1"), dapo_row("Find {y}.", "-5", "u-2")]
    path = tmp_path / f"dapo{suffix}"
    if suffix == ".jsonl":
        write_lines(path, *rows)
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    source = FileProblems(
        str(path),
        problem_field="prompt.0.content",
        answer_field="reward_model.ground_truth",
        id_field="extra_info.index",
        strip_prefix=DAPO_PREFIX,
        strip_suffix=DAPO_SUFFIX,
        source="DAPO",
    )
    problems = source.load()
    assert without_fields(problems) == [
        Problem("u-1", "Find $x$.", "34", "DAPO"),
        Problem("u-2", "Find {y}.", "-5", "DAPO"),
    ]
    assert [problem.fields for problem in problems] == rows


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"So $x = \boxed{1}$, and finally $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"There are $\boxed 4$ of them.", "4"),
        (r"It is $\boxed{ $\frac{7}{8}$ }$", r"\frac{7}{8}"),
    ],
)
def test_math_solutions_hold_the_answer_in_their_last_box(tmp_path: Path, solution: str, answer: str) -> None:
    path = write_lines(tmp_path / "math.jsonl", {"problem": "p", "solution": solution, "level": "Level 5"})
    (problem,) = FileProblems(str(path), answer_field="solution", answer_format="boxed").load()
    assert problem.answer == answer


@pytest.mark.parametrize(("end", "answer"), [("#### 12", "12"), ("#### -1,234,567 ", "-1234567"), ("####0.5", "0.5")])
def test_gsm8k_solutions_end_in_the_answer(tmp_path: Path, end: str, answer: str) -> None:
    row = {"question": "q", "answer": f"Half of it is 48/2 = <<48/2=24>>24 #### no\n{end}"}
    path = write_lines(tmp_path / "gsm8k.jsonl", row)
    (problem,) = FileProblems(str(path), problem_field="question", answer_format="gsm8k").load()
    assert problem.answer == answer


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        (142.0, "142"),
        (-0.25, "-0.25"),
        (10**30, "1" + 30 * "0"),
        (" $x^2$ ", "x^2"),
        ("$1$, $2$", "$1$, $2$"),
    ],
)
def test_answers_become_text(tmp_path: Path, value: Any, answer: str) -> None:
    path = write_lines(tmp_path / "a.jsonl", {"problem": "p", "answer": value})
    assert FileProblems(str(path)).load()[0].answer == answer


def test_fields_in_lists_and_names_with_dots(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "o.jsonl", {"problem": "q", "final_answer": ["$2 n$"], "gold.answer": "1"})
    assert FileProblems(str(path), answer_field="final_answer.0").load()[0].answer == "2 n"
    assert FileProblems(str(path), answer_field="gold.answer").load()[0].answer == "1"
    with pytest.raises(UserError, match=r"o\.jsonl, line 1: .*a list; name one of its values, such as final_answer\.0"):
        FileProblems(str(path), answer_field="final_answer").load()


def test_ids_are_numbered_by_default_and_bare_numbers_get_a_prefix(tmp_path: Path) -> None:
    row = {"problem": "p", "answer": "1"}
    path = write_lines(tmp_path / "mixed.jsonl", row, {"id": 60, **row}, {"id": "61", **row}, {"id": "a/1", **row})
    assert [p.id for p in FileProblems(str(path)).load()] == ["mixed/1", "mixed/60", "mixed/61", "a/1"]
    assert FileProblems(str(path), source="aime").load()[1].id == "aime/60"


def test_ids_can_be_left_out() -> None:
    rows = [{"id": "x", "problem": "p", "answer": "1"}] * 2
    assert [p.id for p in ListProblems(rows, id_field="").load()] == ["problems/1", "problems/2"]


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        (np.int64(5), "5"),
        (np.uint8(200), "200"),
        (np.float64(0.1), "0.1"),
        (np.float32(0.1), "0.1"),
        (np.float64(142.0), "142"),
        (1e300, str(int(1e300))),
        (Fraction(1, 3), "1/3"),
        (Decimal("0.10"), "0.10"),
        (10**20, "1" + "0" * 20),
        (np.bool_(True), None),
        (True, None),
        (np.float64("inf"), None),
        (Decimal("nan"), None),
        (1j, None),
    ],
)
def test_numbers_are_answers_of_any_type(value: Any, answer: str | None) -> None:
    source = ListProblems([{"problem": "p", "answer": value}])
    if answer is not None:
        assert source.load()[0].answer == answer
    else:
        with pytest.raises(UserError, match="row 1: field 'answer' holds no answer but"):
            source.load()


def test_limit_reads_no_further(tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    path.write_text('{"problem": "p", "answer": "1"}\nnot JSON\n')
    assert len(FileProblems(str(path), limit=1).load()) == 1


def test_blank_lines_and_a_byte_order_mark_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"problem": "p", "answer": "1"}\r\n\r\n{"problem": "q", "answer": "2"}')
    assert [p.id for p in FileProblems(str(path)).load()] == ["b/1", "b/3"]


GOOD = b'{"problem": "p", "answer": "1"}\n'


@pytest.mark.parametrize(
    ("second_line", "message"),
    [
        (b'{"problem": "p", "answer": }', "line 2: not valid JSON \\(Expecting value at column 28\\)"),
        (b"[" * 100_000, "line 2: not valid JSON"),
        (b'{"problem": "\xff", "answer": "1"}', "line 2: not UTF-8"),
        (b'["p", "1"]', "line 2: a list instead of a JSON object"),
        (
            b'{"problem": "p"}',
            "line 2: no field 'answer'; set answer_field .*: problem; or set skip_unanswered: true",
        ),
        (b'{"text": {"q": [1]}, "answer": "1"}', r"line 2: no field 'problem'.* there: text\.q\.0, answer"),
        (b'{"problem": "p", "anwser": "1"}', r"line 2: no field 'answer' \(did you mean anwser\?\)"),
        (b'{"problem": "p", "answer": null}', "line 2: field 'answer' is null; fix the row, or set skip"),
        (
            b'{"problem": "p", "answer": NaN}',
            "line 2: field 'answer' is the number nan; fix the row, or set skip_unanswered",
        ),
        (b'{"problem": "p", "answer": "  "}', "line 2: the answer in field 'answer' is empty"),
        (b'{"problem": " ", "answer": "1"}', "line 2: the problem .* is empty"),
        (b'{"problem": 5, "answer": "1"}', "line 2: field 'problem' is not text but the number 5"),
        (rb'{"problem": "\ud835", "answer": "1"}', "line 2: field 'problem' has half a surrogate pair"),
        (b'{"id": [], "problem": "p", "answer": "1"}', "line 2: field 'id' holds no id but a list"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, second_line: bytes, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(GOOD + second_line + b"\n" + GOOD)
    with pytest.raises(UserError, match=message) as caught:
        FileProblems(str(path)).load()
    assert str(caught.value).startswith(f"{path}, line 2: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"answer_format": "boxed"}, r"no \\boxed\{\.\.\.\} in field 'answer'"),
        ({"answer_format": "gsm8k"}, "no #### ANSWER in field 'answer'"),
        ({"strip_prefix": "Solve: "}, "does not begin with strip_prefix 'Solve: '"),
        ({"strip_suffix": "Answer:"}, "does not end with strip_suffix 'Answer:'"),
        ({"id_field": "uuid"}, "no field 'uuid'; set id_field .* to one of those that are there: problem, answer"),
    ],
)
def test_rows_of_another_form_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    path = tmp_path / "f.jsonl"
    path.write_bytes(GOOD)
    with pytest.raises(UserError, match=f"line 1: .*{message}"):
        FileProblems(str(path), **options).load()


def test_equal_ids_are_refused(tmp_path: Path) -> None:
    row = {"id": "x", "problem": "p", "answer": "1"}
    path = write_lines(tmp_path / "twice.jsonl", row, {**row, "id": "y"}, row)
    with pytest.raises(UserError, match=r"line 3: the id 'x' is also that of .*twice\.jsonl, line 1"):
        FileProblems(str(path)).load()


def test_files_that_are_no_data_set(tmp_path: Path) -> None:
    def load(path: Path) -> None:
        FileProblems(str(path)).load()

    with pytest.raises(UserError, match=r"nowhere\.jsonl: no such file"):
        load(tmp_path / "nowhere.jsonl")
    with pytest.raises(UserError, match="is a folder, not a file"):
        load(tmp_path)
    (tmp_path / "data.txt").write_text("problem,answer\n")
    with pytest.raises(UserError, match=r"data\.txt: unknown kind of file; rename or convert it to \.jsonl"):
        load(tmp_path / "data.txt")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match=r"empty\.jsonl: no rows"):
        load(tmp_path / "empty.jsonl")
    broken = {"a.parquet": b"PAR1 no PAR1", "b.jsonl.gz": GOOD, "c.jsonl.gz": gzip.compress(GOOD * 1000)[:-20]}
    broken |= {"d.csv": b'problem,answer\n"p,1\n', "e.csv": b"problem,answer\n\xff,1\n"}
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}: cannot be read .*; is the file complete"):
            load(tmp_path / name)


def test_hub_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[Any] = []

    def load_dataset(*args: Any, **kwargs: Any) -> datasets.Dataset:
        asked.append((args, kwargs))
        return datasets.Dataset.from_list([{"question": "q", "answer": "#### 3"}, {"question": "r", "answer": "none"}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    options: dict[str, Any] = {"problem_field": "question", "answer_format": "gsm8k", "revision": "abc"}
    source = HubProblems("openai/gsm8k", "test", "main", limit=1, **options)
    assert without_fields(source.load()) == [Problem("openai/gsm8k/main/test/1", "q", "3", "openai/gsm8k/main/test")]
    assert asked == [(("openai/gsm8k", "main"), {"split": "test", "revision": "abc"})]
    with pytest.raises(UserError, match="openai/gsm8k/main/test, row 2: no #### ANSWER"):
        HubProblems("openai/gsm8k", "test", "main", **options).load()


def test_an_unreachable_hub_points_to_local_files(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load_dataset(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("Couldn't reach the hub\n(offline)")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(UserError, match=r"'x/y' .* Couldn't reach the hub \(offline\).*\.FileProblems") as caught:
        HubProblems("x/y").load()
    assert "\n" not in str(caught.value)


def test_rows_without_an_answer_are_left_out_and_named_on_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    solutions = (r"It is \boxed{2}.", r"None: \boxed{}.", r"It is \boxed{4}.", "It is 7.")
    path = write_lines(tmp_path / "math.jsonl", *({"problem": "p", "solution": each} for each in solutions))
    settings: dict[str, Any] = {"path": str(path), "answer_field": "solution", "answer_format": "boxed"}
    with pytest.raises(UserError, match=r"math.jsonl, line 2: .* skip_unanswered: true"):
        FileProblems(**settings).load()
    assert [problem.answer for problem in FileProblems(**settings, skip_unanswered=True).load()] == ["2", "4"]
    assert "math: left out 2 rows without a final answer" in caplog.text
    assert "line 2" in caplog.text and "line 4" in caplog.text


@pytest.mark.parametrize("source", [FileProblems, HubProblems, ListProblems])
def test_a_source_has_the_settings_of_its_rows(source: type[ProblemSource]) -> None:
    """They are defined once, in `RowSchema`, and still appear under the source with their types and help."""
    assert set(inspect.signature(RowSchema).parameters) < set(inspect.signature(source).parameters)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(source, "problems")
    text = parser.format_help()
    assert "{plain,boxed,gsm8k}" in text and "Form of the answer" in text


def test_rows_in_memory_are_read_as_those_of_a_file(tmp_path: Path) -> None:
    rows = [{"problem": f"{n}+1", "answer": n + 1, "difficulty": n / 10} for n in range(5)]
    path = write_lines(tmp_path / "sums.jsonl", *rows)
    problems = ListProblems(rows, source="sums").load()
    assert problems == FileProblems(str(path)).load()
    assert problems[3] == Problem("sums/4", "3+1", "4", "sums", {"problem": "3+1", "answer": 4, "difficulty": 0.3})
    with pytest.raises(
        UserError, match=r"^sums, row 2: no field 'answer'; set answer_field .*: problem; or set skip_unanswered"
    ):
        ListProblems([rows[0], {"problem": "2"}], source="sums").load()
    with pytest.raises(UserError, match=r"^problems, row 1: 'x' instead of a dictionary with fields$"):
        ListProblems(["x"]).load()  # type: ignore[list-item]


def test_a_row_may_bring_its_own_turns_system_and_instructions() -> None:
    turns = [
        {"role": role, "content": text} for role, text in (("user", "hard?"), ("assistant", "no"), ("user", "1+1"))
    ]
    rows = [{"chat": turns, "answer": "2", "persona": "You count.", "ask": "Add: {problem}"}]
    own = {"messages_field": "chat", "system_field": "persona", "template_field": "ask"}
    [problem] = ListProblems(rows, **own).load()
    assert (problem.problem, problem.messages) == ("1+1", tuple(turns)), "the last turn is the problem's text"
    assert (problem.system, problem.template) == ("You count.", "Add: {problem}")
    [problem] = ListProblems([{**rows[0], "problem": "sum", "persona": None}], **own).load()
    assert (problem.problem, problem.system) == ("sum", None), "null is the template's"


@pytest.mark.parametrize(
    ("chat", "words"),
    [
        ("1+1", "must be a list of turns"),
        ([{"role": "user"}], "must be a list of turns"),
        ([{"role": "assistant", "content": "2"}], "holds no turn before that of the assistant"),
    ],
)
def test_turns_of_another_form_are_refused(chat: Any, words: str) -> None:
    with pytest.raises(UserError, match=rf"^problems, row 1: .*{words}"):
        ListProblems([{"chat": chat, "answer": "2"}], messages_field="chat").load()


CHAT = [{"role": "system", "content": "Add."}, {"role": "user", "content": "1+1=?"}]
VERL = {"data_source": "sums", "prompt": CHAT, "reward_model": {"style": "rule", "ground_truth": "2"}}
TRL = {"prompt": "1+1=?", "solution": "2"}


@pytest.mark.parametrize("array", [False, True], ids=["lists", "arrays of pandas"])
@pytest.mark.parametrize(
    ("row", "steps"),
    [  # each error says the next setting
        (
            VERL,
            [({}, r"prompt \(a chat: messages_field\)"), ({"problem_field": "prompt"}, "chat, .* a messages_field")],
        ),
        (
            VERL,
            [
                ({"messages_field": "prompt"}, r"no field 'answer'; .*, reward_model\.ground_truth; or set"),
                ({"answer_field": "reward_model"}, r"name one of its values, such as .*reward_model\.ground_truth"),
                ({"answer_field": "reward_model.ground_truth"}, ""),
            ],
        ),
        (TRL, [({}, r"mean prompt\?"), ({"problem_field": "prompt"}, "solution"), ({"answer_field": "solution"}, "")]),
        ({"prompt": CHAT, "answer": 2}, [({}, "a chat: messages_field"), ({"messages_field": "prompt"}, "")]),
        ({"input": "1+1=?", "label": 2}, [({"problem_field": "input"}, "label"), ({"answer_field": "label"}, "")]),
    ],
)
def test_rows_of_other_frameworks_are_read_as_the_errors_say(
    row: dict[str, Any], steps: list[tuple[dict[str, str], str]], array: bool
) -> None:
    row = {name: np.array(value, object) if array and value is CHAT else value for name, value in row.items()}
    settings: dict[str, Any] = {}
    for setting, words in steps:
        settings |= setting
        if words:
            with pytest.raises(UserError, match=words):
                ListProblems([row], **settings).load()
        else:
            (problem,) = ListProblems([row], **settings).load()
            assert (problem.problem, problem.answer) == ("1+1=?", "2")
            assert problem.messages == (tuple(CHAT) if "messages_field" in settings else ())


def test_the_held_out_share_and_the_field_that_keeps_rows_together() -> None:
    rows = [{"problem": f"{n}", "answer": "1", "topic": n % 500} for n in range(5000)]
    test, train = (ListProblems(rows, part=part, held_out=0.2, part_field="topic").load() for part in ("test", "train"))
    assert 0.15 < len(test) / len(rows) < 0.25
    topics = [{problem.fields["topic"] for problem in problems} for problems in (test, train)]
    assert not topics[0] & topics[1] and len(topics[0] | topics[1]) == 500


@given(
    st.sets(st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip), min_size=1, max_size=40),
    st.floats(0.05, 0.95),
    st.randoms(),
)
def test_the_parts_of_a_data_set_are_a_partition_in_any_order(texts: set[str], share: float, chance: Any) -> None:
    rows = [{"problem": text, "answer": "1"} for text in {text.strip() for text in texts}]

    def load(part: Any, rows: list[dict[str, Any]]) -> set[str]:
        try:
            return {problem.problem for problem in ListProblems(rows, part=part, held_out=share).load()}
        except UserError as error:
            assert "rows is in the part" in str(error)
            return set()

    train, test = load("train", rows), load("test", rows)
    assert not train & test and train | test == {row["problem"] for row in rows}
    shuffled = chance.sample(rows, len(rows))
    assert (load("train", shuffled), load("test", shuffled)) == (train, test)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"part": "dev"}, "part: 'dev' is not one of train, test"),
        ({"held_out": 0.0}, "held_out: .* between 0 and 1"),
        ({"answer_format": "latex"}, "answer_format: 'latex' is not one of plain, boxed, gsm8k"),
        ({"limit": 0}, "limit: must be at least 1"),
    ],
)
def test_impossible_settings_are_refused_at_once(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ListProblems([], **setting)
