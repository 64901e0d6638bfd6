"""What README, CONTRIBUTING, the changelog and the pages say of files, keys, classes, values and rules is so."""

import importlib
import inspect
import pkgutil
import re
import runpy
import subprocess
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import CONF, ROOT, config_of

from benchmarks.qwen3 import qwen3
from rence_lightning.callbacks import ExportPolicy
from rence_lightning.cli.main import run
from rence_lightning.evaluation import BENCHMARKS
from rence_lightning.rewards import math_equivalent
from rence_lightning.run.changed_settings import FIXED
from rence_lightning.run.directory import SavedAt
from rence_lightning.training import Trainer
from rence_lightning.training.hooks import SUPPORTED

DOCS = ROOT / "docs"
PATHS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]
PAGES = {path.name: path.read_text(encoding="utf-8") for path in PATHS}
CURRENT = sorted(PAGES.keys() - {"CHANGELOG.md"})
METHOD, RUNS, EVALUATION = PAGES["method.md"], PAGES["runs.md"], PAGES["evaluation.md"]


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def section(page: str, heading: str) -> str:
    return page.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]


def table(text: str) -> list[list[str]]:
    """The cells of the first table of a text, without its head."""
    rows = re.findall(r"(?:^\|.*\n)+", text, re.M)[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def value_of(config: Any, key: str) -> Any:
    for name in key.split("."):
        assert name in config, key
        config = config[name]
    return config


@pytest.fixture(scope="module")
def paper() -> dict[str, Any]:
    """The configuration of the paper's run, with adapters so that their keys exist."""
    return config_of("fit", f"--config={CONF / 'rence.yaml'}", f"--config={CONF / 'small' / 'lora.yaml'}")


def test_the_readme_is_read_in_two_minutes() -> None:
    assert len(PAGES["README.md"].splitlines()) <= 160
    shown, text = PAGES["README.md"].partition("```\ngit clone")[0], PAGES["README.md"]
    assert "tutorial.md" in shown and len(shown.splitlines()) < 10, "how to try it, and the tutorial, come first"
    assert "|" not in text.partition("make demo")[0], "no table comes before the commands that try it"
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert pictures and all((ROOT / each).stat().st_size < 150_000 for each in pictures)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_links_files_modules_and_targets_that_are_named_exist(path: Path) -> None:
    text = PAGES[path.name]
    for target, _, anchor in (link.partition("#") for link in re.findall(r"\]\(([^)\s]+)", text)):
        assert target.startswith("https://") or (path.parent / target).exists(), target
        assert not anchor or anchor in anchors(PAGES[Path(target).name if target else path.name]), f"{target}#{anchor}"
    if path.name == "CHANGELOG.md":
        return
    for file in re.findall(r"\b(?:conf|docs|tests|benchmarks|rence_lightning)/[\w/.]+\.(?:yaml|md|py|png)\b", text):
        assert (ROOT / file).exists(), file
    for module in re.findall(r"-m ((?:benchmarks|tools)[\w.]*)", text):
        module_path = ROOT / module.replace(".", "/")
        assert module_path.with_suffix(".py").exists() or (module_path / "__main__.py").exists(), module
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    for target in re.findall(r"(?:^|`)make ([a-z0-9-]+)", text, re.M):
        assert target in targets, f"make {target}"


def test_make_help_lists_every_target_that_is_explained() -> None:
    text = (ROOT / "Makefile").read_text()
    expected = {
        line.partition(":")[0]: line.partition("  ## ")[2] for line in re.findall("^[a-z].*  ## .*", text, re.M)
    }
    command = ["make", "--no-print-directory", "help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert dict(line.split(maxsplit=1) for line in done.stdout.splitlines()) == expected and len(expected) > 15


@pytest.mark.parametrize("page", CURRENT)
def test_keys_and_import_paths_that_are_named_exist(page: str, paper: dict[str, Any]) -> None:
    for key in set(re.findall(rf"[`-]((?:{'|'.join(paper)})(?:\.\w+)+)(?=[`: =])", PAGES[page])):
        attribute = key.split(".")[1]
        if key.startswith("trainer.") and attribute not in paper["trainer"]:  # of the object, on the page of extending
            assert hasattr(Trainer, attribute) or f"self.{attribute}" in inspect.getsource(Trainer), key
        elif not key.endswith((".help", ".json", ".html", ".md")):
            value_of(paper, key)
    for name in set(re.findall(r"\brence_lightning(?:\.\w+)+", PAGES[page])):
        pkgutil.resolve_name(name)


def test_the_patterns_find_keys_and_import_paths() -> None:
    text = "".join(PAGES[page] for page in CURRENT)
    assert len(set(re.findall(r"`(?:data|model|trainer|evaluation|export)\.[\w.]+`", text))) > 40
    assert len(set(re.findall(r"\brence_lightning(?:\.\w+)+", text))) > 20


BLOCKS = [
    pytest.param(block, id=f"{page}-{number}")
    for page in CURRENT
    for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", PAGES[page], re.S))
    if "my_" not in block
]


@pytest.mark.parametrize("block", BLOCKS)
def test_settings_that_are_shown_are_understood(block: str, tmp_path: Path) -> None:
    (tmp_path / "shown.yaml").write_text(block)
    if "Wandb" in block:
        pytest.importorskip("wandb")
    config_of("fit", f"--config={CONF / 'arithmetic.yaml'}", f"--config={tmp_path / 'shown.yaml'}")


# ---- the method ------------------------------------------------------------------------------------------------------


def test_the_paper_s_numbers_are_those_of_its_configuration(paper: dict[str, Any]) -> None:
    config = config_of("fit", f"--config={CONF / 'rence.yaml'}")
    rows = [(quoted(row[1]), row[2].split(", ")) for row in table(section(METHOD, "The paper's numbers"))]
    assert len(rows) > 10
    for keys, values in rows:
        for key, value in zip(keys, values, strict=False):
            if key != "model.optimizer" and (number := re.match(r"[\d.]+$|[\d.]+(?= )", value.removeprefix("avg@"))):
                assert value_of(config, key) == float(number[0]), key


def test_objectives_and_functions_of_the_method_exist() -> None:
    objectives = importlib.import_module("rence_lightning.objectives")
    names = {quoted(row[0])[0] for row in table(section(METHOD, "Objectives"))}
    assert len(names) > 10 and names <= {*objectives.__all__}
    for path, name in re.findall(r"`(rence_lightning/[\w/]+)\.py`, `([\w.]+)`", METHOD):
        pkgutil.resolve_name(f"{path.replace('/', '.')}:{name}")


def test_the_group_in_numbers_is_that_of_a_loop() -> None:
    group = runpy.run_path(str(DOCS / "figures" / "group.py"))
    rewards, ratios = group["REWARDS"], torch.tensor(group["LOG_RATIOS"], dtype=torch.float64)
    scores = (0.1 * ratios + 0.5 * (1 - torch.tensor(rewards, dtype=torch.float64))).requires_grad_()
    wrong = sum(torch.exp(score) for score, reward in zip(scores, rewards, strict=True) if reward < 1)
    right = [score for score, reward in zip(scores, rewards, strict=True) if reward == 1]
    loss = -sum(torch.log(torch.exp(score) / (torch.exp(score) + wrong)) for score in right) / len(right)
    (gradient,) = torch.autograd.grad(loss, scores)
    found_scores, pulls, found_loss = group["scores_and_pulls"]()
    torch.testing.assert_close(found_scores, scores.detach())
    torch.testing.assert_close(pulls, -gradient)
    assert f"the loss is {found_loss:.3f}" in METHOD and float(pulls.sum()) == pytest.approx(0, abs=1e-12)
    assert f"{pulls[0]:.2f} and {pulls[1]:.2f}" in METHOD and int(pulls.argmin()) == 2


# ---- rewards and evaluation ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", table(section(EVALUATION, "What counts as right")), ids=lambda row: row[0])
def test_answers_are_judged_as_the_table_says(row: list[str]) -> None:
    reference, right, wrong = map(quoted, row)
    assert right and wrong
    for gold in reference:
        assert all(math_equivalent(gold, prediction) for prediction in right)
        assert not any(math_equivalent(gold, prediction) for prediction in wrong)


def test_the_benchmarks_are_those_of_the_registry() -> None:
    rows = {quoted(row[0])[0]: row[1:] for row in table(section(EVALUATION, "Benchmarks"))}
    assert rows.keys() == BENCHMARKS.keys()
    for name, (hub, counts, _) in rows.items():
        assert hub == BENCHMARKS[name].hub
        assert tuple(int(count.replace(",", "")) for count in counts.split(" or ")) == BENCHMARKS[name].counts


@pytest.mark.data
def test_the_local_overlays_name_the_paper_s_data(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RENCE_DATA", str(data_folder))
    overlays = [f"--config={CONF / 'data' / name}" for name in ("paper_local.yaml", "benchmarks_local.yaml")]
    config = config_of("fit", f"--config={CONF / 'rence.yaml'}", *overlays)
    sources = [*config["data"]["problems"], *config["evaluation"]["benchmarks"].values()]
    assert len(sources) == 8 and all(Path(source["init_args"]["path"]).exists() for source in sources)


# ---- runs, extending, scaling ----------------------------------------------------------------------------------------


def test_the_page_of_runs_names_checkpoints_fixed_settings_and_defaults() -> None:
    assert f"`{SavedAt('run', 6, 3, 0).name}`" in RUNS
    sentence = RUNS.replace("\n", " ").split("is refused in one line:")[1].split(". ")[0]
    assert all(f"`{key.removesuffix('.class_path')}`" in sentence for key in FIXED), sentence
    said = {name: yaml.safe_load(default.strip("`")) for name, default in re.findall(r"`export\.(\w+)` \| (\S+)", RUNS)}
    assert said == {each.name: each.default for each in inspect.signature(ExportPolicy).parameters.values()}


def test_lightning_s_callbacks_that_run_are_named() -> None:
    text = PAGES["extending.md"].split("Of Lightning's own callbacks, ")[1].split(" run as in Lightning")[0]
    assert set(re.findall(r"`([A-Z]\w+)`", text)) == set(SUPPORTED)


def test_the_plan_that_is_shown_is_what_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    qwen3("4B").save_pretrained(tmp_path / "Qwen" / "Qwen3-4B")
    assert run(["plan", f"--config={CONF / 'rence.yaml'}", "--gpu_memory=80"]) == 0
    (shown,) = re.findall(r"```text\n(Qwen/Qwen3-4B.*?)```", PAGES["scaling.md"], re.S)
    assert shown.splitlines() == [line.rstrip() for line in capsys.readouterr().out.rstrip().splitlines()]


@pytest.mark.parametrize("overlay", sorted((CONF / "hardware").glob("*.yaml")), ids=lambda overlay: overlay.stem)
def test_hardware_overlays_are_in_the_table_of_scaling(overlay: Path) -> None:
    assert f"`conf/hardware/{overlay.name}`" in PAGES["scaling.md"]


# ---- the code --------------------------------------------------------------------------------------------------------


def test_the_tables_of_floors_are_the_contract() -> None:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    floors = [sorted(re.split(r"[ |]+", layer)) for layer in contract if layer != "__main__"]
    rows = re.findall(r"^\| \d \| (.*) \|$", PAGES["CONTRIBUTING.md"], re.M)
    assert [sorted(re.findall(r"`(\w+)(?:/|\.py)`", row)) for row in rows] == floors
    tree = section(PAGES["README.md"], "Read")
    for room in chain(*floors):
        assert not (ROOT / "rence_lightning" / room).is_dir() or f"{room}/" in tree, room


def test_new_names_of_the_changelog_can_be_imported() -> None:
    rows = re.findall(r"^\| `rence_lightning\.[\w.]+` \| `(rence_lightning\.[\w.]+)`", PAGES["CHANGELOG.md"], re.M)
    assert len(rows) > 15
    for name in rows:
        pkgutil.resolve_name(name)
