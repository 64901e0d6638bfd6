"""Commands that need no configuration: what they work on says all."""

from collections.abc import Callable

from rence_lightning.cli.commands.compare import compare_command
from rence_lightning.cli.commands.export import export_command
from rence_lightning.cli.commands.report import report_command

COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "export": export_command,
    "compare": compare_command,
    "report": report_command,
}
"""By name, each given the arguments after it."""

__all__ = ["COMMANDS"]
