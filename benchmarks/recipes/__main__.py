"""`python -m benchmarks.recipes`: runs the recipes, and writes what they gave into the configurations and README."""

from pathlib import Path

from jsonargparse import CLI

from benchmarks.command import run_command
from benchmarks.recipes.pages import texts
from benchmarks.recipes.results import RESULTS, read_results
from benchmarks.recipes.runner import run_missing
from benchmarks.recipes.spec import RECIPES, load_recipes
from benchmarks.study.outcome import read_outcomes
from benchmarks.study.rows import Rows
from benchmarks.study.spec import load_spec
from rence_lightning.errors import UserError

STUDY = Path(__file__).parent.parent / "study"


def run(only: str = "", results: Path = RESULTS, out: Path = Path("runs/recipes"), recipes: Path = RECIPES) -> None:
    """Runs every recipe with every seed that has not been run yet, one after another, on one thread of a CPU.

    The command can be interrupted at any time; the same command continues, and runs nothing twice. It is started in the
    root of the repository.

    Args:
        only: Name of the recipe to run (default: all).
        results: File of the results, one line for each run.
        out: Folder of the runs in progress and of those that failed.
        recipes: Recipes, a YAML file.

    Raises:
        UserError: There is no such recipe, or a file is wrong.
        RunFailed: A run failed; the others were run.
    """
    known = load_recipes(recipes)
    names = dict.fromkeys(recipe.name for recipe in known if recipe.seeds)
    if only and only not in names:
        raise UserError(f"--only: {only}: no recipe with seeds has this name; choose from {', '.join(names)}")
    run_missing([recipe for recipe in known if only in ("", recipe.name)], results, out)


def write(
    root: Path = Path(),
    results: Path = RESULTS,
    study: Path = STUDY / "results",
    spec: Path = STUDY / "study.yaml",
    recipes: Path = RECIPES,
) -> None:
    """Writes what the recipes gave into the header of each configuration and into README.md.

    Args:
        root: Root of the repository; the configurations are in its folder `conf`.
        results: File of the results of `run`.
        study: Folder of the results of `python -m benchmarks.study`.
        spec: Specification of the study, a YAML file.
        recipes: Recipes, a YAML file.

    Raises:
        UserError: A file is wrong, or has no lines between which the evidence stands; then nothing is written.
    """
    rows = Rows(load_spec(spec), read_outcomes(study))
    for path, text in texts(root, load_recipes(recipes), read_results(results), rows).items():
        path.write_text(text, encoding="utf-8")
    print(f"written to the configurations in {root / 'conf'} and the table in {root / 'README.md'}")


if __name__ == "__main__":
    run_command(
        lambda: CLI(
            {"run": run, "write": write}, as_positional=False, prog="python -m benchmarks.recipes", description=__doc__
        )
    )
