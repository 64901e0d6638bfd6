"""From settings to the trainer, module, data module and callbacks of a run, by jsonargparse."""

import sys
import warnings
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser
from lightning.pytorch import seed_everything

from rence_lightning.callbacks import Callback
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


class CLI:
    """Reads settings, and builds what a command runs.

    The callbacks that make up the method have keys of their own, so that an overlay can change one setting of one of
    them; `trainer.callbacks` adds to them.

    Args:
        command: Command, `fit`, `warmup` or `validate`.
        settings: Layers of its settings.
        builds: Whether trainer, module and data module are built.

    Raises:
        UserError: A setting is wrong, or a part refuses its settings.
        SystemExit: The help of a class or the configuration was asked for and is printed.
    """

    def __init__(self, command: str, settings: Settings, builds: bool = True) -> None:
        hide_bars_in_files()
        classes = dict(CLASSES)
        if command == "warmup":
            classes |= {"model": DemonstrationModule, "data": DemonstrationDataModule}
            if unread := settings.given(NOT_OF_WARMUP):
                own = "its own settings are --warmup.epochs and --warmup.learning_rate"
                warnings.warn(f"warmup does not read {', '.join(unread)}; {own}", stacklevel=2)
        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument("--seed_everything", type=int, default=0)
        parser.add_argument("--ckpt_path", type=str | None)
        for section, kind in classes.items():
            parser.add_class_arguments(kind, section, instantiate=kind is not Trainer)
        parser.link_arguments("seed_everything", "data.seed", compute_fn=_checked_seed)
        try:
            if settings.help is not None:
                key, named = settings.help
                if named:
                    parser.parse_args([f"--{key}.help={named}"])
                print(class_list(key))
                sys.exit(0)
            self.config = parser.parse_object(merged(settings, parser.get_defaults().as_dict()))
        except Exception as error:
            place = origin(error)  # where a module of the user fails while it is imported
            if not place and not isinstance(error, ArgumentError) and "fail_untyped" not in str(error):
                raise
            raise UserError(explain(str(error), settings) + place) from error
        self.config_yaml, self.unnamed = written(self.config)
        if settings.print_config:
            print(self.config_yaml, end="")
            sys.exit(0)
        if builds:
            self._build(command, parser, settings)

    def _build(self, command: str, parser: ArgumentParser, settings: Settings) -> None:
        """Builds trainer, module and data module, and gives the trainer the configuration to save."""
        seed_everything(self.config.seed_everything, workers=True)
        try:
            parts = parser.instantiate(self.config)
        except ValueError as error:
            if "Union subtypes" not in str(error):  # jsonargparse's report of what the constructor of a part raised
                raise
            raise UserError(explain(str(error), settings) + origin(error)) from error
        self.model: PolicyModule = parts["model"]
        self.datamodule: RolloutDataModule = parts["data"]
        left_out = NOT_OF_WARMUP if command == "warmup" else ()
        sections = [section for section, kind in CLASSES.items() if issubclass(kind, Callback)]
        callbacks = [parts[section] for section in sections if section not in left_out]
        given = vars(parts["trainer"])
        self.trainer = Trainer(**{**given, "callbacks": [*(given["callbacks"] or ()), *callbacks]})
        self.trainer.session.config_yaml = self.config_yaml
        if isinstance(self.model, DemonstrationModule):
            warmup: Warmup = parts["warmup"]
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
    """The complete configuration of a command, as plain settings.

    Raises:
        UserError: A setting is wrong.
    """
    config: dict[str, Any] = yaml.safe_load(CLI(command, settings, builds=False).config_yaml)
    return config


def _checked_seed(seed: int) -> int:
    """The seed of prompts and sampling; a `ValueError` if NumPy does not take it."""
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed_everything: expected a number from 0 to 2**32 - 1, got {seed}")
    return seed
