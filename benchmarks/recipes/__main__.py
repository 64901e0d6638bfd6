"""`python -m benchmarks.recipes`: runs the recipes, and writes what they gave into the configurations and README."""

import sys
from pathlib import Path

from jsonargparse import CLI

from benchmarks.recipes.results import RESULTS
from benchmarks.recipes.runner import run_missing
from benchmarks.recipes.spec import RECIPES, load_recipes
from benchmarks.study.runner import RunFailed
from rence_lightning.errors import UserError


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


def main() -> None:
    try:
        CLI({"run": run}, as_positional=False)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except RunFailed as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
