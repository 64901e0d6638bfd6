"""LightningCLI over the project's trainer, module, data module and callbacks."""

import sys
import warnings
from typing import Any

import yaml
from jsonargparse import ArgumentError
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from rence_lightning.cli.arguments import hide_bars_in_files
from rence_lightning.cli.config_errors import explain, origin
from rence_lightning.cli.keys import CLASSES, class_list
from rence_lightning.cli.merging import merged
from rence_lightning.cli.settings import Settings
from rence_lightning.cli.written import written
from rence_lightning.errors import UserError
from rence_lightning.sampling.datamodule import RolloutDataModule
from rence_lightning.sampling.demonstrations import DemonstrationDataModule
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.trainer import Trainer
from rence_lightning.training.warmup import DemonstrationModule, Warmup

NOT_OF_WARMUP = (
    *("trainer.max_iterations", "model.optimizer.lr", "model.objective", "model.trust_region", "model.reference"),
    *("data.group_size", "data.prompts_per_iteration", "data.prompts_per_draw", "data.max_draws_per_iteration"),
    *("data.filter", "data.weights", "old_policy", "adaptive_kl", "rollout_log"),
)
"""What `warmup` does not read of a configuration of `fit`: its own keys stand for the first two."""


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
            parser_kwargs={"exit_on_error": False, "print_config": None},  # `parse_arguments` prints it
            args={},
            run=False,
        )

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the keys without a section."""
        parser.add_argument("--seed_everything", type=bool | int, default=self.seed_everything_default)
        parser.add_argument("--ckpt_path", type=str | None)

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the sections."""
        for section, kind in {**CLASSES, "model": self._model_class, "data": self._datamodule_class}.items():
            if kind in (Trainer, Warmup):
                parser.add_class_arguments(kind, section, instantiate=kind is Warmup)
            else:
                parser.add_lightning_class_args(kind, section)
        if self._command == "warmup":
            parser.callback_keys = [each for each in parser.callback_keys if each not in NOT_OF_WARMUP]
        parser.link_arguments("seed_everything", "data.seed", compute_fn=seed_of)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Reads the settings, or prints the help of a class or the configuration and ends the process."""
        try:
            if self._settings.help is not None:
                key, named = self._settings.help
                if named:
                    parser.parse_args([f"--{key}.help={named}"])
                print(class_list(key))
                sys.exit(0)
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
