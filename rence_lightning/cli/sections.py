"""The sections of a configuration, by name: known without importing the classes that they configure."""

from collections.abc import Sequence

from rence_lightning.cli.config_files import ConfigFiles
from rence_lightning.errors import UserError
from rence_lightning.text import nearest

# In the order in which they run: an iteration is measured and shown, the policy is evaluated, saved and exported.
CALLBACKS = {
    "old_policy": "OldPolicySnapshot",
    "adaptive_kl": "AdaptiveKL",
    "rollout_log": "RolloutLog",
    "progress": "Progress",
    "evaluation": "BenchmarkEvaluation",
    "checkpoint": "Checkpoint",
    "export": "ExportPolicy",
    "timing": "Timing",
    "report": "Report",
}
"""The callbacks that make up the method, by their sections: the names of classes in `rence_lightning.callbacks`."""

SECTIONS = ("trainer", "model", "data", *CALLBACKS)
"""The keys at the top of a configuration that hold further keys."""


def check_sections(arguments: Sequence[str], files: ConfigFiles) -> None:
    """Refuses a misspelled section; whether the keys in a section exist is for the parser to say.

    Raises:
        UserError: The name of a section is unknown, and like a known one.
    """
    for argument in arguments:
        section, dot, _ = argument.partition("=")[0].partition(".")
        if section.startswith("--") and dot:
            _check(section[2:], argument.partition("=")[0])
    for place, key in files.top_level_keys():
        _check(key.partition(".")[0], place)


def _check(section: str, place: str) -> None:
    if section not in SECTIONS and (near := nearest(section, SECTIONS)) is not None:
        raise UserError(f"{place}: there is no section {section!r} (did you mean {near!r}?)")
