"""The help of `fit`, `warmup` and `validate`, which needs no import of what it describes."""

import ast
import sys
from textwrap import wrap
from typing import Any

from rence_lightning.cli.arguments import CommandParser, with_examples
from rence_lightning.cli.declared import declared, groups, key_hint, keys
from rence_lightning.cli.settings import Settings, known_names, package_configs
from rence_lightning.errors import UserError

DESCRIPTIONS = {
    "fit": with_examples(
        "Train a policy: iterations of rollouts and updates (Algorithm 1), until trainer.max_iterations.",
        [
            "fit --config arithmetic",
            "fit --config rence --config hardware/gpu1",
            "fit --config arithmetic --data.group_size 4 --model.objective.beta 0.2",
            "fit --config arithmetic --ckpt_path last",
        ],
    ),
    "warmup": with_examples(
        "Train a policy on the solutions of the training problems, by maximum likelihood, before fit: a policy that\n"
        "solves nothing can then begin. With the configuration of fit; what is about sampled responses has no effect:\n"
        "group_size, prompts_per_iteration, filter, objective, trust region. An iteration is an epoch.",
        [
            "warmup --config arithmetic --warmup.epochs 1",
            "fit --config arithmetic --model.policy runs/arithmetic-warmup/hf",
        ],
    ),
    "validate": with_examples(
        "Evaluate a policy on the benchmarks of the section `evaluation`, without training it.",
        [
            "validate --config arithmetic --model.policy runs/arithmetic/hf",
            "validate --config arithmetic --ckpt_path best --evaluation.repeats 8",
        ],
    ),
}

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


def settings_parser(command: str) -> CommandParser:
    """The options of a command in `DESCRIPTIONS`, for its help and completion; `Settings` reads them."""
    configs = wrap(known_names(), width=100, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    parser = CommandParser(command)
    parser.usage = "%(prog)s --config NAME|FILE [--config OVERLAY ...] [--SECTION.KEY VALUE ...]"
    parser.description = DESCRIPTIONS[command] + "\n" + EXPLANATION.replace("{configs}", "\n".join(configs))
    about = "Path of a configuration, or the name of one of the package."
    parser.add_argument("-c", "--config", choices=package_configs(), metavar="NAME|FILE", help=about)
    parser.add_argument("--print_config", action="store_true", help="Print the complete configuration and end.")
    found: dict[str, Any] = {"": parser}
    for key, setting in declared().items():
        if not setting.type:
            found[key] = parser.add_argument_group(f"{key}: {setting.help}")
            continue
        section, _, name = key.rpartition(".")
        choices = ["true", "false"] if setting.type == "bool" else None
        if setting.type.endswith("]") and setting.type.startswith("Literal["):
            choices = ast.literal_eval(setting.type.removeprefix("Literal"))
        default = f"default: {setting.default}" if setting.default else "required"
        about = f"{setting.help} (type: {setting.type}, {default})".replace("%", "%%")
        metavar = None if choices else name.upper()
        found[section].add_argument(f"--{key}", choices=choices, metavar=metavar, help=about)
    return parser


def print_help(command: str, settings: Settings) -> None:
    """Prints the help that settings ask for and ends the process, unless it is that of a class.

    Raises:
        UserError: It is that of a key which does not exist.
    """
    if settings.help is None or settings.help[0] in keys():
        return
    key = settings.help[0]
    if key in groups():
        listed = (f"  --{each}" for each in keys() if each.startswith(f"{key}."))
        print("\n".join([f"keys of {key} (--help explains them):", *listed]))
    elif key:
        raise UserError(f"there is no key {key}{key_hint(key)}")
    else:
        settings_parser(command).print_help()
    sys.exit(0)
