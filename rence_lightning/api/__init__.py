"""The Python API: `fit`, `warmup` and `validate` with the objects, defaults and checks of the command line."""

from rence_lightning.api.policy import TrainedPolicy
from rence_lightning.api.result import Result
from rence_lightning.api.run import fit, validate, warmup

__all__ = ["Result", "TrainedPolicy", "fit", "validate", "warmup"]
