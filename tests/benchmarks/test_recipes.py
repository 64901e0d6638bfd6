"""The recipes: every configuration has one, and its header says what the results say."""

import json
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean

import pytest
import yaml
from command_line import CONF, ROOT, config_of

from benchmarks.recipes.__main__ import run as run_command
from benchmarks.recipes.__main__ import write
from benchmarks.recipes.evidence import MARKERS, WIDTH, block, row
from benchmarks.recipes.pages import README, summary, texts
from benchmarks.recipes.results import RESULTS, Result, append_result, read_results, results_of
from benchmarks.recipes.spec import RECIPES, Recipe, load_recipes
from benchmarks.study.outcome import Outcome, read_outcomes
from benchmarks.study.rows import Rows
from benchmarks.study.spec import load_spec
from rence_lightning.errors import UserError

FILES = load_recipes()
BY_FILE = {recipe.file: recipe for recipe in FILES}
STUDY = ROOT / "benchmarks" / "study"
SPEC = load_spec(STUDY / "study.yaml")
RESULT = Result(
    *("demo", "conf/arithmetic.yaml", "python -m rence_lightning fit --config conf/arithmetic.yaml", 0),
    *(0.25, 0.75, 20, 50.0, 70.0, 1, "a processor"),
    versions={"torch": "2"},
    commit="abc",
)


@pytest.fixture(scope="module")
def rows() -> Rows:
    return Rows(SPEC, read_outcomes(STUDY / "results"))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the configurations and README."""
    shutil.copytree(CONF, tmp_path / "conf")
    shutil.copy(ROOT / "README.md", tmp_path)
    return tmp_path


def header(file: str) -> list[str]:
    """The comment lines at the beginning of a configuration."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    return lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))]


def flat(text: str) -> str:
    """Comment lines as one line, with a command on several lines put together."""
    return " ".join(re.sub(r"^#", "", text.replace("\\\n", "\n"), flags=re.M).split())


def recipes_of(path: Path, **entries: object) -> tuple[Recipe, ...]:
    path.write_text(yaml.safe_dump({"recipes": entries}), encoding="utf-8")
    return load_recipes(path)


def test_every_configuration_has_exactly_one_recipe() -> None:
    assert sorted(BY_FILE) == sorted(str(file.relative_to(ROOT)) for file in CONF.rglob("*.yaml"))
    assert len(FILES) == len(BY_FILE)


@pytest.mark.parametrize("file", BY_FILE)
def test_a_header_has_the_command_and_then_the_evidence(file: str) -> None:
    lines = header(file)
    start, end = (lines.index(marker) for marker in MARKERS)
    assert end == len(lines) - 1 > start + 1, "nothing stands between the lines, or something below them"
    assert BY_FILE[file].command in flat("\n".join(lines[:start]))
    assert all(len(line) <= WIDTH for line in lines[start:])


def test_headers_and_readme_say_what_the_results_say(rows: Rows) -> None:
    for path, text in texts(ROOT, FILES, read_results(RESULTS), rows).items():
        assert path.read_text(encoding="utf-8") == text, f"{path}: run python -m benchmarks.recipes write"


def test_the_demo_in_the_pages_ends_as_in_the_results() -> None:
    (first,) = (each for each in results_of(BY_FILE["conf/arithmetic.yaml"], read_results(RESULTS)) if each.seed == 0)
    for page in ("README.md", "docs/index.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        shown = re.findall(r"^arithmetic: sampled pass@1 (.*?) \(", text, re.M)
        assert shown == [f"{first.start:.1%} -> {first.end:.1%}"], page


def test_pages_that_repeat_the_results_agree_with_them() -> None:
    results = read_results(RESULTS)
    demo, gym, lora, (smollm2,) = (
        results_of(BY_FILE[f"conf/{file}.yaml"], results) for file in ("arithmetic", "gym", "small/lora", "smollm2")
    )
    about = f"seed {smollm2.seed} went from {smollm2.start:.1%} to {smollm2.end:.1%}"
    assert smollm2.processor in (page := (ROOT / "docs" / "smollm2.md").read_text()) and about in page
    rows = re.findall(r"^\| (\d) \| ([\d.]+%) \| ([\d.]+%) \|$", (ROOT / "docs" / "gym.md").read_text(), re.M)
    assert rows == [(str(each.seed), f"{each.start:.1%}", f"{each.end:.1%}") for each in gym]
    cells = [", ".join(f"{each.start:.1%} -> {each.end:.1%}" for each in runs) for runs in (demo, lora)]
    assert f"| sampled pass@1, seeds 0, 1, 2 | {cells[0]} | {cells[1]} |" in (ROOT / "docs" / "lora.md").read_text()


def test_runs_were_made_by_a_commit_and_not_by_changed_files() -> None:
    results = read_results(RESULTS)
    assert results and all(re.fullmatch(r"[0-9a-f]{12}", each.commit) for each in results)
    assert all(each.file in BY_FILE for each in results)


def test_write_restores_what_was_changed_and_nothing_else(copy: Path) -> None:
    write(copy)
    before = {file: file.read_text() for file in [*copy.rglob("*.yaml"), copy / "README.md"]}
    for file, text in before.items():
        start, end = MARKERS if file.suffix == ".yaml" else README
        head, _, rest = text.partition(start)
        file.write_text(f"{head}{start}\n# typed by hand: 99.9%\n{end}{rest.partition(end)[2]}")
        assert file.read_text() != text
    write(copy)
    assert {file: file.read_text() for file in before} == before
    write(copy)
    assert {file: file.read_text() for file in before} == before


@pytest.mark.parametrize(("file", "line"), [("conf/rence.yaml", MARKERS[1]), ("README.md", README[0])])
def test_a_file_without_a_place_for_evidence_is_named_in_one_line(file: str, line: str, copy: Path) -> None:
    changed = copy / "conf" / "arithmetic.yaml"
    changed.write_text(changed.read_text().replace("CPU seconds", "hours"))
    kept = changed.read_text()
    path = copy / file
    path.write_text(path.read_text().replace(f"{line}\n", "", 1))
    with pytest.raises(UserError, match=re.escape(f"{path}: it has no lines")) as error:
        write(copy)
    assert "\n" not in str(error.value) and line in str(error.value)
    assert changed.read_text() == kept, "some files were written"


def test_a_configuration_without_a_block_has_no_evidence(copy: Path, rows: Rows) -> None:
    file = copy / "conf" / "gym.yaml"
    file.write_text("".join(line for line in file.read_text().splitlines(True) if not line.startswith("#")))
    with pytest.raises(UserError, match=r"gym\.yaml: it has no lines"):
        texts(copy, FILES, read_results(RESULTS), rows)


def test_a_block_has_means_and_ends_over_seeds(rows: Rows) -> None:
    demo = replace(BY_FILE["conf/arithmetic.yaml"], seeds=(0, 1, 2))
    some = [replace(RESULT, seed=seed, end=end, cpu_seconds=50.0 + seed) for seed, end in enumerate((0.7, 0.8, 0.78))]
    assert flat(block(demo, some, rows)) == (
        "Run with seeds 0, 1 and 2 on one thread (a processor, no GPU), commit abc: sampled pass@1 25.0% -> 76.0% "
        "(seeds from 70.0 to 80.0) in 20 iterations, 51 CPU seconds each."
    )
    one = flat(block(demo, some[:1], rows))
    assert "seed 0 (one seed)" in one and "25.0% -> 70.0% in 20 iterations, 50 CPU seconds." in one
    assert "(70.0 to" not in one
    assert flat(block(demo, [], rows)) == "Not run yet: python -m benchmarks.recipes run --only demo runs it."
    assert "commits abc, def" in flat(block(demo, [some[0], replace(some[1], commit="def")], rows))
    assert summary([demo], some).splitlines()[2:] == [
        "| [the demo](conf/arithmetic.yaml) | 25.0% -> 76.0% (seeds from 70.0 to 80.0) | 0, 1, 2 | 51 |"
    ]
    assert len(summary([BY_FILE["conf/rence.yaml"]], some).splitlines()) == 2, "a recipe that was not run"


def test_a_block_has_the_row_of_the_small_tables(rows: Rows) -> None:
    text = flat(block(BY_FILE["conf/paper/table1_dapo.yaml"], [], rows))
    runs = [
        each
        for each in read_outcomes(STUDY / "results" / "tables.jsonl")
        if (each.task, each.method, each.split, each.learning_rate) == ("gym", "DAPO", "test", rows.rate("gym", "DAPO"))
    ]
    assert len(runs) == 5
    start, ends = 100 * fmean(each.start for each in runs), [100 * each.at["responses"].accuracy for each in runs]
    expected = (
        f"{start:.1f}% -> {fmean(ends):.1f}% (seeds from {min(ends):.1f} to {max(ends):.1f}) after 4,096 responses"
    )
    assert text.startswith("Not run yet: it needs eight GPUs") and expected in text
    assert flat(row("DAPO", Rows(SPEC, []))).endswith("has not been run yet: make study.")


def test_runs_that_diverged_are_counted_and_a_policy_that_is_not_trained_has_no_end(rows: Rows) -> None:
    outcomes: list[Outcome] = read_outcomes(STUDY / "results" / "tables.jsonl")
    first = next(each for each in rows.of("gym", "ReNCE").values())
    broken = [replace(each, error="the norm is nan") if each == first else each for each in outcomes]
    assert "1 of 5 runs diverged or starved" in row("ReNCE", Rows(SPEC, broken))
    assert "diverged" not in row("ReNCE", rows) and "->" not in row("No training", rows)


def test_methods_are_those_of_the_study() -> None:
    """A file is the method that names it; another one has the settings of the file that its method names."""
    configs = {method.config: name for name, method in SPEC.methods.items() if method.config}
    assert {file: BY_FILE[file].method for file in configs} == configs
    others = [each for each in FILES if each.file.startswith("conf/paper") and each.file not in configs]
    assert len(others) == 5
    for each in others:
        same = SPEC.methods[each.method].config
        found = []
        for file in (each.file, same) if same else (each.file,):
            config = config_of("fit", f"--config={CONF / 'rence.yaml'}", f"--config={ROOT / file}")
            found.append({**config, "trainer": {**config["trainer"], "run_dir": ""}})
        assert found[0] == found[-1], each.file


@pytest.mark.parametrize("file", [recipe.file for recipe in FILES if recipe.tested])
def test_tests_that_are_named_exist(file: str) -> None:
    paths = re.findall(r"tests/[\w/]+\.py", BY_FILE[file].tested)
    assert paths and all((ROOT / path).exists() for path in paths)


def test_old_results_do_not_count_for_a_new_command(tmp_path: Path) -> None:
    demo = BY_FILE["conf/arithmetic.yaml"]
    path = tmp_path / "new" / "results.jsonl"
    some = [RESULT, replace(RESULT, seed=1), replace(RESULT, seed=7), replace(RESULT, end=0.8)]
    for each in some:
        append_result(path, each)
    assert read_results(path) == some and read_results(tmp_path / "none.jsonl") == []
    assert results_of(demo, some) == [some[3], some[1]], "the last run of each seed of the recipe"
    assert results_of(replace(demo, command=f"{demo.command} --trainer.max_iterations 1"), some) == []
    assert results_of(BY_FILE["conf/gym.yaml"], some) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"end": 1.5}, "from 0 to 1"),
        ({"seed": "0"}, "seed: '0' has the wrong type"),
        ({"threads": 0}, "threads"),
        ({"note": ""}, "unknown: note"),
    ],
)
def test_a_line_that_is_no_result_is_named(change: dict[str, object], words: str, tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in (asdict(RESULT), {**asdict(RESULT), **change})))
    with pytest.raises(UserError, match=f":2: .*{re.escape(words)}") as error:
        read_results(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"a": {"files": {"x": None}, "command": "c", "missing": "m", "seed": 1}}, "seed"),
        ({"a": {"files": {"x": None}, "command": "c"}}, "a, x: give seeds to run it with"),
        ({"a": {"files": {"x": None}, "command": "c", "seeds": [0]}}, "needs a title"),
        ({"a": {"files": {"x": None}, "command": "c", "seeds": [0], "title": "t"}}, "must begin with python -m"),
        ({"a": {"files": {"x": None}, "command": "c", "seeds": ["0"], "title": "t"}}, "seeds must be numbers"),
        ({"a": {"files": {"x": None}, "command": "c {}", "missing": "m"}}, "IndexError"),
        ({"a": {"files": {"x": None}, "command": "c 'd", "missing": "m"}}, "No closing quotation"),
        ({key: {"files": {"x": None}, "command": "c", "missing": "m"} for key in "ab"}, "x: the file has 2 recipes"),
    ],
)
def test_a_wrong_recipe_is_refused_in_one_line(entries: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(words)) as error:
        recipes_of(tmp_path / "recipes.yaml", **entries)
    assert "\n" not in str(error.value) and "recipes.yaml" in str(error.value)


def test_a_file_changes_fields_of_its_entry(tmp_path: Path) -> None:
    files = {"conf/a.yaml": {"title": "A"}, "conf/b.yaml": None}
    command = "python -m rence_lightning fit --config {file} --x 'y z'"
    first, second = recipes_of(
        tmp_path / "recipes.yaml", name={"files": files, "command": command, "seeds": [3], "title": "B"}
    )
    assert (first.name, first.title, second.title, second.seeds) == ("name", "A", "B", (3,))
    assert second.arguments == ["fit", "--config", "conf/b.yaml", "--x", "y z"]


def test_only_takes_the_name_of_a_recipe_that_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--only: rence: no recipe with seeds has this name; choose from demo, gym"):
        run_command(only="rence", results=tmp_path / "results.jsonl", out=tmp_path, recipes=RECIPES)
