"""What README.md, CONTRIBUTING.md, CHANGELOG.md and docs/resume.md say of files, commands, keys and names is so."""

import pkgutil
import re
import tomllib
from itertools import chain
from pathlib import Path

import pytest
import torch
from command_line import CONF, ROOT, config_of
from test_docs import value_of

from rence_lightning.run.changed_settings import FIXED
from rence_lightning.run.directory import SavedAt

PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")}
PAGES |= {page.name: page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").glob("*.md"))}
README, RESUME = PAGES["README.md"], PAGES["resume.md"]


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(name: str) -> None:
    for target, _, anchor in (link.partition("#") for link in re.findall(r"\]\(([^)]+)\)", PAGES[name])):
        assert target.startswith("https://") or (ROOT / target).exists(), target
        assert not anchor or anchor in anchors(PAGES[Path(target).name]), f"{target}#{anchor}"


@pytest.mark.parametrize("name", PAGES)
def test_files_modules_and_targets_that_are_named_exist(name: str) -> None:
    text = PAGES[name]
    for path in re.findall(r"\b(?:conf|docs|tests)/[\w/.]+\.(?:yaml|md|py|png)\b", text):
        assert (ROOT / path).exists(), path
    for module in re.findall(r"-m (benchmarks[\w.]*)", text):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    for target in re.findall(r"(?:^|`)make ([a-z0-9-]+)", text, re.M):
        assert target in targets, f"make {target}"


def test_commands_of_the_readme_are_understood() -> None:
    text = README.replace("\\\n", " ")
    commands = [
        line.split() for line in re.findall(r"-m rence_lightning ((?:fit|validate) +--config conf/.*)$", text, re.M)
    ]
    assert len(commands) > 9, "the pattern no longer finds the commands"
    for command, *options in commands:
        if "VLLMEngine" not in " ".join(options):  # not installed everywhere
            config_of(command, *(re.sub(r"^conf/", f"{CONF}/", option) for option in options))


def test_keys_of_the_readme_exist() -> None:
    config = config_of("fit", f"--config={CONF / 'rence.yaml'}")
    keys = set(re.findall(rf"`((?:{'|'.join(config)})(?:\.\w+)+)(?=[`:])", README))
    assert len(keys) > 12, "the pattern no longer finds the keys"
    for key in keys:
        value_of(config, key)


def test_the_tables_of_floors_are_the_contract() -> None:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    rooms = [re.split(r"[ |]+", layer) for layer in contract if layer != "__main__"]
    floors: list[list[str]] = [*map(sorted, rooms[:6]), sorted(chain(*rooms[6:]))]
    table = re.findall(r"^\| \d \| (.*) \|$", PAGES["CONTRIBUTING.md"], re.M)
    assert [sorted(re.findall(r"`(\w+)(?:/|\.py)`", row)) for row in table] == floors
    tree = README.split("## Where things are")[1].split("```")[1].split("conf/ ")[0]
    for room in chain(*floors):
        assert re.search(rf"\b{room}(?:/|\.py)", tree), room


def test_names_of_the_changelog_can_be_imported() -> None:
    rows = re.findall(r"^\| `rence_lightning\.[\w.]+` \| `(rence_lightning\.[\w.]+)`", PAGES["CHANGELOG.md"], re.M)
    assert len(rows) > 20
    for name in rows:
        pkgutil.resolve_name(name)


def test_the_moment_of_a_checkpoint_is_named_as_the_pages_say() -> None:
    name = SavedAt("run", 6, 3, 0).name
    assert f"`{name}`" in RESUME and f"interruption {name}/;" in README


def test_all_settings_that_cannot_change_on_resume_are_named() -> None:
    sentence = RESUME.replace("\n", " ").split("refused in one line:")[1].split(". ")[0]
    assert all(f"`{key.removesuffix('.class_path')}`" in sentence for key in FIXED), sentence
    assert "`model.policy`" in sentence and "`data.weights`" in sentence


def test_the_python_of_the_readme_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, objective = re.findall(r"```python\n(.*?)```", README, re.S)
    names: dict[str, object] = {}
    exec(objective, names)
    responses = type("Responses", (), {"positive": torch.tensor([[True, False]])})
    assert names["Sharper"]().contrast(torch.zeros(1, 2), responses).shape == (1,)  # type: ignore[operator]
    monkeypatch.chdir(tmp_path)
    assert len([line for line in task.splitlines() if line]) <= 10, "ten lines, as the heading says"
    exec(task.replace("=10", "=1"), {"__name__": "__main__"})
    assert (tmp_path / "runs" / "sum" / "hf" / "model.safetensors").exists()
    assert {file.name for file in (tmp_path / "runs" / "sum").iterdir()} <= set(
        re.findall(r"^  ([\w.]+)/? ", README.split("```\nruns/arithmetic/")[1].split("```")[0], re.M)
    )
