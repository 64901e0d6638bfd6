"""ReNCE on PyTorch Lightning: learning to reason by noise contrastive estimation.

    from rence_lightning import fit

Importing the package is cheap on purpose (no torch): the reward workers import it in every process. The names of
`__all__` are imported when they are first used.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from rence_lightning.parts import VERSION

if TYPE_CHECKING:
    from rence_lightning.api import Result, TrainedPolicy, fit, validate, warmup
    from rence_lightning.parts import Problem
    from rence_lightning.rewards import Response, Score

__version__ = VERSION

# OpenMP reads these when torch is loaded. Threads that spin for long while they wait take the cores from other jobs and
# from one another: beside a busy job a run takes 2.5 times as long. With a short spin, an idle machine is not slower.
if os.environ.setdefault("OMP_WAIT_POLICY", "passive") == "passive":
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

_ROOMS = {
    "Problem": "parts",
    "Response": "rewards",
    "Result": "api",
    "Score": "rewards",
    "TrainedPolicy": "api",
    "fit": "api",
    "validate": "api",
    "warmup": "api",
}

__all__ = ["Problem", "Response", "Result", "Score", "TrainedPolicy", "fit", "validate", "warmup"]


def __getattr__(name: str) -> Any:
    """Imports one of the public names."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
