"""The blocks of evidence in the headers of conf/ and in README.md, written from the files of results."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.between import replaced
from benchmarks.markdown import table
from benchmarks.recipes.evidence import MARKERS, block, rise
from benchmarks.recipes.results import Result, results_of
from benchmarks.recipes.spec import Recipe
from benchmarks.study.rows import Rows

README = ("<!-- by python -m benchmarks.recipes write -->", "<!-- end -->")


def texts(root: Path, recipes: Sequence[Recipe], results: Sequence[Result], rows: Rows) -> dict[Path, str]:
    """Each file with its block of evidence as it should be.

    Args:
        root: Root of the repository, with `conf/` and README.md; nothing is changed in it.
        recipes: Recipe of each configuration.
        results: Finished runs of recipes.
        rows: Runs of the small tables.

    Raises:
        UserError: A file is missing, or lacks the lines between which its evidence stands.
    """
    found = {
        root / recipe.file: replaced(root / recipe.file, *MARKERS, block(recipe, results_of(recipe, results), rows))
        for recipe in recipes
    }
    readme = root / "README.md"
    return {**found, readme: replaced(readme, *README, f"{summary(recipes, results)}\n")}


def summary(recipes: Iterable[Recipe], results: Sequence[Result]) -> str:
    """The table of the recipes that were run: before and after, and CPU seconds, over seeds."""
    lines = []
    for recipe in recipes:
        if found := results_of(recipe, results):
            seeds = ", ".join(str(each.seed) for each in found)
            seconds = sum(each.cpu_seconds for each in found) / len(found)
            lines.append([f"[{recipe.title}]({recipe.file})", rise(found), seeds, f"{seconds:.0f}"])
    return table(["recipe", "sampled pass@1", "seeds", "CPU seconds of a run"], lines)
