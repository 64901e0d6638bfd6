"""LightningCLI over the project's trainer, module, data module and callbacks."""

import re
import sys
import warnings
from argparse import Action, RawDescriptionHelpFormatter
from collections.abc import Iterable
from textwrap import wrap
from typing import Any

import yaml
from jsonargparse import ArgumentError, DefaultHelpFormatter
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from rence_lightning.cli.arguments import PROGRAM, hide_bars_in_files, with_examples
from rence_lightning.cli.config_errors import explain, origin
from rence_lightning.cli.keys import CLASSES, class_list, groups, key_hint, known_keys
from rence_lightning.cli.merging import merged
from rence_lightning.cli.settings import CALLBACKS, Settings, known_names
from rence_lightning.cli.written import written
from rence_lightning.errors import UserError
from rence_lightning.sampling.datamodule import RolloutDataModule
from rence_lightning.sampling.demonstrations import DemonstrationDataModule
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.trainer import Trainer
from rence_lightning.training.warmup import DemonstrationModule, Warmup

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


NOT_OF_WARMUP = (
    *("trainer.max_iterations", "model.optimizer.lr", "model.objective", "model.trust_region", "model.reference"),
    *("data.group_size", "data.prompts_per_iteration", "data.prompts_per_draw", "data.max_draws_per_iteration"),
    *("data.filter", "data.weights", "old_policy", "adaptive_kl", "rollout_log"),
)
"""What `warmup` does not read of a configuration of `fit`: its own keys stand for the first two."""


class HelpFormatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """jsonargparse's formatter, without what the description says once for all, and without a list of every class."""

    def add_arguments(self, actions: Iterable[Action]) -> None:
        """Leaves out `--SECTION CONFIG`, `--KEY.help`, and what is no option."""
        options = [each for each in actions if each.option_strings[0].startswith("-") and each.metavar != "CONFIG"]
        super().add_arguments(each for each in options if not each.dest.endswith(".help"))

    def _get_help_string(self, action: Action) -> str:
        return re.sub(r", known subclasses: .*\)$", ")", super()._get_help_string(action))


class CLI(LightningCLI):
    """Reads the settings of one command, and builds what it runs.

    The callbacks that make up the method have keys of their own, so that an overlay can change one setting of one of
    them; `trainer.callbacks` adds to them.

    Args:
        command: Command, `fit`, `warmup` or `validate`.
        settings: Layers of its settings.
        builds: Whether trainer, module and data module are built.

    Raises:
        UserError: A setting is wrong, or a part refuses its settings.
        SystemExit: Help or the configuration was asked for and is printed.
    """

    trainer: Trainer  # type: ignore[assignment]
    model: PolicyModule
    datamodule: RolloutDataModule

    def __init__(self, command: str, settings: Settings, builds: bool = True) -> None:
        self._command, self._settings = command, settings
        self._builds = builds
        hide_bars_in_files()
        configs = wrap(known_names(), width=100, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
        if unread := settings.given(NOT_OF_WARMUP) if command == "warmup" else []:
            warnings.warn(
                f"warmup does not read {', '.join(unread)}; its own settings are --warmup.epochs and "
                "--warmup.learning_rate",
                stacklevel=2,
            )
        super().__init__(
            DemonstrationModule if command == "warmup" else PolicyModule,
            DemonstrationDataModule if command == "warmup" else RolloutDataModule,
            trainer_class=Trainer,  # type: ignore[arg-type]
            save_config_callback=None,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            seed_everything_default=0,
            parser_kwargs={
                "prog": f"{PROGRAM} {command}",
                "usage": "%(prog)s --config NAME|FILE [--config OVERLAY ...] [--SECTION.KEY VALUE ...]",
                "description": DESCRIPTIONS[command] + "\n" + EXPLANATION.replace("{configs}", "\n".join(configs)),
                "formatter_class": HelpFormatter,
                "exit_on_error": False,
                "print_config": None,  # the configuration is printed by `parse_arguments`
            },
            args={},
            run=False,
        )

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the keys without a section."""
        parser.add_argument(
            "--seed_everything",
            type=bool | int,
            default=self.seed_everything_default,
            help="Seed of the order of the prompts, of sampling and of all else that is random.",
        )
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            help="Checkpoint to resume from: `last`, `best`, a run directory or a checkpoint in one.",
        )

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the sections of trainer, module and data module."""
        parser.add_class_arguments(self.trainer_class, "trainer", instantiate=False)
        parser.add_lightning_class_args(self._model_class, "model")
        parser.add_lightning_class_args(self._datamodule_class, "data")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the sections of the callbacks, and names the section in each heading of the help."""
        for section in CALLBACKS:
            parser.add_lightning_class_args(CLASSES[section], section)
        parser.add_class_arguments(Warmup, "warmup")
        if self._command == "warmup":
            parser.callback_keys = [each for each in parser.callback_keys if each not in NOT_OF_WARMUP]
        parser.link_arguments("seed_everything", "data.seed", compute_fn=seed_of)
        for section, group in (parser.groups or {}).items():
            group.title = f"{section}: {group.title}"

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Reads the settings, or prints the help or the configuration that they ask for and ends the process."""
        try:
            if self._settings.help is not None:
                self._print_help(parser, *self._settings.help)
            self.config = parser.parse_object(merged(self._settings, parser.get_defaults().as_dict()))
        except Exception as error:
            place = origin(error)  # where a module of the user fails while it is imported
            if not place and not isinstance(error, ArgumentError):
                raise
            raise UserError(explain(str(error), self._settings) + place) from error
        self.config_yaml, self.unnamed = written(self.config)
        if self._settings.print_config:
            print(self.config_yaml, end="")
            sys.exit(0)

    def _print_help(self, parser: LightningArgumentParser, key: str, named: str) -> None:
        if not key:
            parser.print_help()
        elif key in groups():
            listed = (f"  --{each}" for each in known_keys() if each.startswith(f"{key}."))
            print("\n".join([f"keys of {key} (--help explains them):", *listed]))
        elif key not in known_keys():
            raise UserError(f"there is no key {key}{key_hint(key)}")
        elif not named:
            print(class_list(key))
        else:
            parser.parse_args([f"--{key}.help={named}"])
        sys.exit(0)

    def _set_seed(self) -> None:
        if self._builds:
            super()._set_seed()

    def instantiate_classes(self) -> None:
        """Builds trainer, module and data module, and gives the trainer the configuration to save."""
        if not self._builds:
            return
        try:
            super().instantiate_classes()
        except ValueError as error:
            if "Union subtypes" not in str(error):  # jsonargparse's report of what the constructor of a part raised
                raise
            raise UserError(explain(str(error), self._settings) + origin(error)) from error
        self.trainer.session.config_yaml = self.config_yaml
        if isinstance(self.model, DemonstrationModule):
            warmup: Warmup = self.config_init.warmup
            self.trainer.max_iterations, self.model.learning_rate = warmup.epochs, warmup.learning_rate


def run(command: str, settings: Settings) -> CLI:
    """Runs a command, `fit`, `warmup` or `validate`, to its end, and returns what it ran.

    Raises:
        UserError: A setting is wrong.
    """
    cli = CLI(command, settings)
    run_it = cli.trainer.validate if command == "validate" else cli.trainer.fit
    run_it(cli.model, cli.datamodule, ckpt_path=cli.config.ckpt_path)
    return cli


def read_config(command: str, settings: Settings) -> dict[str, Any]:
    """The complete configuration of a command, `fit` or `validate`, as plain settings.

    Raises:
        UserError: A setting is wrong.
    """
    config: dict[str, Any] = yaml.safe_load(CLI(command, settings, builds=False).config_yaml)
    return config


def seed_of(seed_everything: bool | int | None) -> int:
    """The seed of prompts and sampling; a `ValueError` if NumPy does not take it."""
    if seed_everything is None or not 0 <= seed_everything < 2**32:
        raise ValueError(f"seed_everything: expected a number from 0 to 2**32 - 1, got {seed_everything}")
    return int(seed_everything)
