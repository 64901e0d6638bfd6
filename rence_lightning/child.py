"""Python processes of this project's own: started by `exec`, so that they import neither `__main__` nor torch."""

import os
import sys
from pathlib import Path


def python_process(module: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """The command and the environment of a process that runs a module of this package, on one thread.

    It imports the same code as its parent, and nothing from the current directory. Its hash seed is fixed, so that the
    order of sets of text is the same in every process: sympy's verdicts and reasoning-gym's problems depend on it.
    """
    paths = [*(str(Path(path).resolve()) for path in sys.path), str(Path(__file__).resolve().parents[1])]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    fixed = {**threads, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "PYTHONHASHSEED": "0"}
    return [sys.executable, "-P", "-m", module, *arguments], {**os.environ, **fixed}
