"""The documentation site: it builds without a warning, needs nothing from elsewhere, and has every public name."""

import importlib
import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import ROOT

for needed in ("material", "mkdocstrings", "latex2mathml", "markdown_callouts"):
    pytest.importorskip(needed, reason="the site needs the extra `docs`")
griffe = pytest.importorskip("griffe", reason="the site needs the extra `docs`")

ROOMS = [
    *("training", "sampling", "rollouts", "prompts", "rewards", "objectives"),
    *("policy", "evaluation", "callbacks", "run", "report"),
]
FETCHED = re.compile(r"""<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)=["']?(?:https?:)?//""")


def build(docs: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Builds the site from a folder of pages."""
    config = site.parent / "built.yml"
    text = (ROOT / "mkdocs.yml").read_text()
    text = text.replace("  - docs/site/", f"  - {docs}/site/").replace("paths: [.]", f"paths: [{ROOT}]")
    config.write_text(f"docs_dir: {docs}\n{text.replace('site_dir: build/site', f'site_dir: {site}')}")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(config)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "site"
    done = build(ROOT / "docs", folder)
    assert not done.returncode, done.stderr[-3000:]
    return folder


@pytest.mark.slow
def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 100
    assert [str(page) for page in pages if FETCHED.search(page.read_text())] == []
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import\s*)[\"']?(?:https?:)?//", sheet.read_text()), sheet


@pytest.mark.slow
def test_every_public_name_has_an_entry(site: Path) -> None:
    for module in ("rence_lightning", *(f"rence_lightning.{room}" for room in ROOMS)):
        page = (site / "api" / f"{module.removeprefix('rence_lightning.')}.html").read_text()
        names = getattr(importlib.import_module(module), "__all__", [])
        missing = [name for name in names if f'id="{module}.{name}"' not in page]
        assert not missing, f"{module}: {missing}"
    entry = (site / "api" / "objectives.html").read_text().split('id="rence_lightning.objectives.GRPO"')[1]
    assert "Lower clipping range" in entry.split("</h2>")[1].split("<h2")[0], "the arguments of a base class"


def test_a_class_without_an_init_has_the_arguments_of_its_base() -> None:
    loader = griffe.GriffeLoader(
        search_paths=[ROOT],
        extensions=griffe.load_extensions(ROOT / "docs/site/inherited.py"),
        docstring_parser="google",
    )
    package = loader.load("rence_lightning")
    objectives, seen = importlib.import_module("rence_lightning.objectives"), set()
    for name in objectives.__all__:
        each = getattr(objectives, name)
        if (
            inspect.isclass(each)
            and "__init__" not in vars(each)
            and (arguments := [*inspect.signature(each).parameters])
        ):
            sections = package[f"objectives.{name}"].docstring.parsed
            documented = [item.name for part in sections if part.kind.value == "parameters" for item in part.value]
            assert documented == arguments or each.__init__ is object.__init__, name
            seen.add(name)
    assert {"GRPO", "MultiLabelNCE", "NCA"} <= seen


@pytest.mark.slow
def test_equations_and_code_are_in_the_page(site: Path) -> None:
    page = (site / "method.html").read_text()
    assert page.count("<math") > 10 and "arithmatex" not in page
    text = re.sub(r"<[^>]+>", "", page)
    assert "lines 19-21: one optimizer step for each mini-batch" in text, "the source of `fit` is not shown"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "[gone](gone.md) [gone](method.md#gone)",
            ["index.md' contains a link 'gone.md', but the target is not found", "does not contain an anchor '#gone'"],
        ),
        ('[`gone`](../rence_lightning/errors.py "source")', ["index.md: no gone in ../rence_lightning/errors.py"]),
    ],
    ids=["page and anchor", "code"],
)
def test_a_dead_link_fails_the_build(text: str, found: list[str], tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    shutil.copytree(ROOT / "docs", docs)
    for each in (
        "rence_lightning",
        "callbacks",
        "conf",
        "benchmarks",
        "tests",
        "examples",
        *map(str, ROOT.glob("*.*")),
    ):
        (tmp_path / Path(each).name).symlink_to(ROOT / each)
    (docs / "index.md").write_text(f"# Home\n\n{text}\n")
    done = build(docs, tmp_path / "site")
    assert done.returncode and all(words in done.stderr for words in found), done.stderr[-2000:]
    assert "Traceback" not in done.stderr
