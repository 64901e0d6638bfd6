"""The parser of `fit` and `validate`: jsonargparse's, with texts taken as they are and errors of one line."""

import re
from argparse import SUPPRESS, Action, ArgumentError
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile
from jsonargparse._actions import _ActionHelpClassPath
from jsonargparse._typehints import ActionTypeHint, get_optional_arg
from jsonargparse._util import NestedArg
from lightning.pytorch.cli import LightningArgumentParser

from rence_lightning.cli.config_errors import nearest_key
from rence_lightning.cli.help import ClassHelp, HelpFormatter


class ConfigError(Exception):
    """A command line or configuration that cannot be read.

    Attributes:
        file: The configuration file that was being read; None if it was an option, or all of them together.
    """

    def __init__(self, message: str, file: str | None = None) -> None:
        super().__init__(message)
        self.file = file


class Parser(LightningArgumentParser):
    """Interpolation follows overrides, options cannot be abbreviated, and errors are of one line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        defaults = {
            "parser_mode": "omegaconf+",
            "allow_abbrev": False,
            "formatter_class": HelpFormatter,
            "usage": SUPPRESS,  # a list of all options; a command sets a usage that can be read
        }
        super().__init__(*args, **{**defaults, **kwargs})

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """Parses a command line; see jsonargparse."""
        self._adapt_actions()
        return super().parse_args(*args, **kwargs)

    def parse_object(self, *args: Any, **kwargs: Any) -> Any:
        """Parses settings that were read already; see jsonargparse."""
        self._adapt_actions()
        return super().parse_object(*args, **kwargs)

    def _adapt_actions(self) -> None:
        """jsonargparse names the classes of its actions in its own code, so theirs are exchanged afterwards."""
        for action in self._actions:
            if (adapted := ADAPTED.get(type(action))) is not None:
                action.__class__ = adapted

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Refuses the command line, with the key that was probably meant.

        Raises:
            ConfigError: Always, except in one of several attempts to read a value, which raises what jsonargparse
                expects.
        """
        unknown = re.match(r"(?:.*[Oo]ption '|unrecognized arguments: --)([\w.]+)", message)
        if unknown is not None and "did you mean" not in message and (near := nearest_key(unknown[1], self.keys())):
            message += f" (did you mean {near}?)"
        elif extra := re.match(r"unrecognized arguments: (\S+\.ya?ml)$", message):
            message += f" (did you mean --config={extra[1]}?)"
        if not self.exit_on_error:
            super().error(message, ex)
        raise ConfigError(message) from ex

    def keys(self) -> list[str]:
        """The dotted keys of this parser, and of its subcommands."""
        parsers = [self]
        if self._subcommands_action is not None:
            parsers += self._subcommands_action._name_parser_map.values()
        keys = (action.dest for parser in parsers for action in parser._actions)
        return list(dict.fromkeys(key for key in keys if not key.endswith(".help")))


class Unread(str):
    """The text of an option that must not be read as YAML yet, because its type is known to an inner parser only."""


class TextAction(ActionTypeHint):
    """A typed option whose nested texts reach the parser of their class unread.

    jsonargparse reads `--data.template.text 'Solve: {problem}'` as a YAML mapping before it looks at the type of
    `text`, and then gives the class the mapping's representation.
    """

    def _check_type(self, value: Any, append: bool = False, cfg: Any = None, mode: Any = None) -> Any:
        if isinstance(value, Unread):
            value = str(value)
        elif isinstance(value, NestedArg) and type(value.val) is str and not self._is_read_here(value.key):
            value = NestedArg(value.key, Unread(value.val))
        return super()._check_type(value, append=append, cfg=cfg, mode=mode)

    def _is_read_here(self, key: str) -> bool:
        return key.startswith("dict_kwargs") or ActionTypeHint.is_mapping_typehint(get_optional_arg(self._typehint))


class ConfigFileAction(ActionConfigFile):
    """`--config`, whose errors name the file that was being read."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Reads a configuration file.

        Raises:
            ConfigError: It holds a wrong setting.
        """
        try:  # to the parser, settings are the text that they are
            super().__call__(parser, cfg, str(values), option_string)
        except (ConfigError, TypeError, KeyError, ArgumentError) as error:
            raise ConfigError(str(error), getattr(values, "origin", str(values))) from error


ADAPTED: dict[type[Action], type[Action]] = {
    ActionTypeHint: TextAction,
    ActionConfigFile: ConfigFileAction,
    _ActionHelpClassPath: ClassHelp,
}
