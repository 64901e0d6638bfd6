"""What stands in `config.yaml` for an object that the command line cannot build again."""

from lightning.pytorch.loggers import Logger

from rence_lightning.callbacks import Callback
from rence_lightning.errors import UserError
from rence_lightning.objectives import Objective
from rence_lightning.prompts import Cleaning, ProblemSource, PromptTemplate
from rence_lightning.rewards import Reward
from rence_lightning.rollouts import TransformersEngine
from rence_lightning.sampling import PromptFilter


class GivenInPython(
    Callback,
    Logger,
    Objective,
    Reward,
    PromptFilter,
    ProblemSource,
    PromptTemplate,
    Cleaning,
    TransformersEngine,
):
    """An object of a notebook or script, in place of which another must be named to run its configuration again.

    It may stand for a part of any kind, and refuses to be built.

    Args:
        key: Key at which the object was given.
        what: What was given, and why it cannot be built again.
        instead: What to do, as an instruction.
    """

    def __init__(self, key: str, what: str, instead: str) -> None:
        raise UserError(f"{key}: the run was given {what}; {instead}, or run the Python code again")


GivenInPython.__abstractmethods__ = frozenset()  # the parser refuses abstract classes
