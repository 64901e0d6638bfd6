"""The commands of `python -m rence_lightning`, in one table: help, dispatch and error messages all read it.

This module imports nothing heavy, so that a typo or `--help` is answered at once; a command's module is imported when
it is called.
"""

from argparse import ArgumentParser
from collections.abc import Callable
from pkgutil import resolve_name
from typing import NamedTuple

from rence_lightning.cli.arguments import PROGRAM, SCRIPT, CommandParser
from rence_lightning.cli.help import DESCRIPTIONS, settings_parser
from rence_lightning.errors import UserError, did_you_mean
from rence_lightning.parts import VERSION

COMPLETION = "--print_completion"


class Command(NamedTuple):
    """A command: the module with its function, a line about it for the list of commands, and example arguments."""

    module: str
    help: str
    example: str


COMMANDS = {
    "fit": Command("training", "train a policy", "fit --config arithmetic"),
    "warmup": Command("training", "train a policy on solutions, before fit", "warmup --config arithmetic"),
    "validate": Command(
        "training",
        "evaluate a policy on benchmarks",
        "validate --config arithmetic --model.policy runs/arithmetic/hf",
    ),
    "plan": Command("plan", "say whether a run fits into memory", "plan --config rence --gpu_memory 80"),
    "export": Command(
        "export",
        "write a checkpoint's policy as a Hugging Face folder",
        "export runs/arithmetic/checkpoints/best FOLDER",
    ),
    "compare": Command(
        "finished",
        "compare runs or evaluations of the same problems",
        "compare runs/before-validate runs/after-validate",
    ),
    "report": Command("finished", "write one or more runs as one HTML page", "report runs/arithmetic"),
}
"""The commands by name, in the order in which the help lists them."""


def find_command(arguments: list[str]) -> Callable[[list[str]], None]:
    """The function of the command that a command line names first; it takes the arguments after the command.

    Raises:
        UserError: It names none, or one that does not exist.
        SystemExit: `--help`, `--version` or a shell's completion was asked for and is printed.
    """
    known = ", ".join(COMMANDS)
    if not arguments:
        raise UserError(f"name a command: {known}; for example: {PROGRAM} {COMMANDS['fit'].example}")
    first = arguments[0]
    if first in COMMANDS:
        function: Callable[[list[str]], None] = resolve_name(f"{__name__}.{COMMANDS[first].module}:{first}_command")
        return function
    if first in ("-h", "--help", "--version", COMPLETION):
        _top_level_parser(completes=first == COMPLETION).parse_args(arguments[:2])
    if first.startswith("-"):
        raise UserError(f"{first}: options go after the command ({known})")
    raise UserError(f"there is no command {first!r}{did_you_mean(first, COMMANDS)}; choose from {known}")


def _top_level_parser(completes: bool) -> CommandParser:
    parser = CommandParser(
        None,
        "Train a language model on verifiable problems with ReNCE, or evaluate one.",
        [command.example for command in COMMANDS.values()],
        epilogue=f"{PROGRAM} COMMAND --help explains the arguments of a command.\n"
        f"{SCRIPT} {COMPLETION} bash (or zsh, fish, ...) prints a script with which the shell completes them.",
    )
    version = f"rence_lightning {VERSION}"
    parser.add_argument("--version", action="version", version=version, help="print the version and exit")
    listed = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=ArgumentParser)
    for name, command in COMMANDS.items():
        options = [settings_parser(name)] if completes and name in DESCRIPTIONS else []
        listed.add_parser(name, help=command.help, add_help=False, parents=options)
    if completes:
        try:
            import shtab
        except ImportError:
            raise UserError(f"{COMPLETION}: shtab is not installed; run pip install shtab") from None
        parser.prog = SCRIPT
        shtab.add_argument_to(parser, COMPLETION)
    return parser
