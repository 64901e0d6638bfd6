"""The help of `fit` and `validate`: types where values go, no list of every class, and classes on demand."""

import re
from argparse import SUPPRESS, Action, RawDescriptionHelpFormatter
from collections.abc import Iterable, Mapping
from textwrap import wrap
from typing import Any

from jsonargparse import DefaultHelpFormatter
from jsonargparse._actions import _ActionConfigLoad, _ActionHelpClassPath, _ActionPrintConfig
from jsonargparse._typehints import ActionTypeHint

from rence_lightning.cli.classes import classes_of
from rence_lightning.cli.package_configs import known_names

LINE = 100
"""Number of columns of the text above the list of settings."""

EXPLANATION = """
--config takes the path of a file, or the name of a configuration that ships with the package; those in a folder are
overlays, to be given after one of the others:
{configs}

--SECTION.KEY VALUE sets one key. Settings are read in the order given: a later file or option overrides earlier ones.
A part that is a class is named by its class or import path, and its own settings follow the same key:
  --data.filter ZeroVarianceFilter --data.filter.t_easy 0.9
  --data.filter.help                       lists the classes that a key takes
  --data.filter.help ZeroVarianceFilter    explains the settings of one
--KEY+ VALUE appends to a list. --print_config prints the complete configuration instead of running it."""


def explanation() -> str:
    """What the help of a command says of its arguments as a whole."""
    configs = wrap(known_names(), width=LINE, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    return EXPLANATION.replace("{configs}", "\n".join(configs))


class HelpFormatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """jsonargparse's formatter, with types as placeholders and without what a reader of the settings can do without."""

    def add_arguments(self, actions: Iterable[Action]) -> None:
        """Leaves out `--SECTION CONFIG` and `--KEY.help`, which the description explains once for all."""
        super().add_arguments(
            action for action in actions if not isinstance(action, _ActionConfigLoad | _ActionHelpClassPath)
        )

    def _format_action_invocation(self, action: Action) -> str:
        if isinstance(action, _ActionPrintConfig):
            return "--print_config"
        plain = [option for option in action.option_strings if not option.endswith("+")]
        if not isinstance(action, ActionTypeHint) or not plain:
            return super()._format_action_invocation(action)
        metavar = action.metavar if isinstance(action.metavar, str) else None
        return f"{plain[0]} {metavar if metavar and metavar[0] == '{' else readable_type(self._get_type_str(action))}"

    def _get_help_string(self, action: Action) -> str:
        if isinstance(action, _ActionPrintConfig):
            return "Print the complete configuration and exit."
        if not isinstance(action, ActionTypeHint):
            return super()._get_help_string(action)
        notes = ["required"] if action.required else []
        if isinstance(action.default, Mapping):
            notes.append(f"default: {_named_class(action.default)}")
        elif action.default is not SUPPRESS and action.default is not None:
            notes.append("default: %(default)s")
        return (action.help or "") + (f" ({', '.join(notes)})" if notes else "")


def _named_class(part: Mapping[str, Any]) -> str:
    settings = ", ".join(f"{name}={value}" for name, value in part.get("init_args", {}).items())
    return f"{part.get('class_path')}({settings})"


def readable_type(type_name: str | None) -> str:
    """A type as a placeholder: `list[Logger]|null` instead of `Optional[list[Logger]]`."""
    name = type_name or ""
    name = re.sub(r"^Optional\[(.*)\]$", r"\1 | null", name)
    name = re.sub(r"^Union\[(.*)\]$", lambda union: union[1].replace(", ", " | "), name)
    name = re.sub(r"Callable\[.*?, (?:Union\[)?(\w+)[^|]*\]", r"\1", name)
    return name.replace(" | ", "|").replace(", ", ",")


class ClassHelp(_ActionHelpClassPath):
    """`--KEY.help`: the classes that a key takes, or the settings of one of them."""

    def print_help(self, call_args: Any) -> None:
        """Lists the classes where none is named; jsonargparse explains the one that is."""
        parser, _, value, option = call_args
        if value is None and self.nargs == "?":
            print(class_list(self._help_types, option))
            parser.exit()
        super().print_help(call_args)


def class_list(bases: Iterable[type], option: str) -> str:
    """The classes that an option takes, each with the first line of its docstring.

    Args:
        bases: The base classes or protocols of the option's type.
        option: The option, `--data.filter.help` for example.
    """
    classes = dict(found for base in bases for found in classes_of(base))
    width = max(map(len, classes), default=0)
    lines = [f"  {name:<{width}}  {text}".rstrip() for name, text in classes.items()]
    key = option.removesuffix(".help")
    return "\n".join(
        [
            f"classes for {key}:",
            *(lines or ["  none"]),
            "",
            f"{option} CLASS explains the settings of one. A class of your own is named by its import path:",
            f"{key} my_module.MyClass",
        ]
    )
