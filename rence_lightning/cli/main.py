"""The command line: `fit` and `validate`, from layered YAML files, interpolation and dotted overrides."""

import os
import re
import sys
from argparse import RawDescriptionHelpFormatter
from typing import Any, NoReturn, cast

import torch.distributed as dist
from jsonargparse import DefaultHelpFormatter, set_parsing_settings
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from omegaconf.errors import OmegaConfBaseException
from transformers.utils.logging import disable_progress_bar

from rence_lightning.callbacks import (
    AdaptiveKL,
    BenchmarkEvaluation,
    Checkpoint,
    ExportPolicy,
    OldPolicySnapshot,
    Progress,
    Report,
    RolloutLog,
)
from rence_lightning.cli.commands import COMMANDS
from rence_lightning.cli.config_errors import explain, nearest_key, sections_of
from rence_lightning.cli.config_files import ConfigFiles
from rence_lightning.distributed import rank_and_world
from rence_lightning.errors import UserError, exit_code, explanation, one_line
from rence_lightning.sampling.datamodule import RolloutDataModule
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.trainer import Trainer

DESCRIPTION = """Train a language model on verifiable problems with ReNCE, or evaluate one.

  python -m rence_lightning fit --config conf/arithmetic.yaml
  python -m rence_lightning validate --config conf/arithmetic.yaml --model.policy runs/arithmetic/hf
  python -m rence_lightning export runs/arithmetic/checkpoints/best FOLDER
  python -m rence_lightning compare runs/before-validate runs/after-validate
  python -m rence_lightning report runs/arithmetic

Several --config files are laid over one another; --key.sub=value overrides both."""


class HelpFormatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """jsonargparse's, with the commands of the description on lines of their own."""


class Parser(LightningArgumentParser):
    """Interpolation follows overrides, no abbreviated options, errors of one line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        defaults = {"parser_mode": "omegaconf+", "allow_abbrev": False, "formatter_class": HelpFormatter}
        super().__init__(*args, **{**defaults, **kwargs})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        unknown = re.match(r"(?:.*[Oo]ption '|unrecognized arguments: --)([\w.]+)", message)
        if unknown is not None and "did you mean" not in message and (near := nearest_key(unknown[1], self.keys())):
            message += f" (did you mean {near}?)" if near != unknown[1] else " (options go after the subcommand)"
        elif extra := re.match(r"unrecognized arguments: (\S+\.ya?ml)$", message):
            message += f" (did you mean --config={extra[1]}?)"
        if not self.exit_on_error:  # one of several attempts to read a value: another may succeed
            super().error(message, ex)
        raise ConfigError(message) from ex

    def keys(self) -> list[str]:
        """The dotted keys of this parser, and of its subcommands."""
        parsers = [self]
        if self._subcommands_action is not None:
            parsers += self._subcommands_action._name_parser_map.values()
        keys = (action.dest for parser in parsers for action in parser._actions)
        return list(dict.fromkeys(key for key in keys if not key.endswith(".help")))


class ConfigError(Exception):
    """A command line or configuration that cannot be read; the message is jsonargparse's."""


class CLI(LightningCLI):
    """LightningCLI over the project's trainer, module, data module and callbacks.

    The callbacks that make up the method have keys of their own, so that an overlay can change one setting of one of
    them; `trainer.callbacks` adds to them.
    """

    # In the order in which they run: an iteration is measured and shown, the policy is evaluated, saved and exported.
    CALLBACKS = {  # noqa: RUF012
        "old_policy": OldPolicySnapshot,
        "adaptive_kl": AdaptiveKL,
        "rollout_log": RolloutLog,
        "progress": Progress,
        "evaluation": BenchmarkEvaluation,
        "checkpoint": Checkpoint,
        "export": ExportPolicy,
        "report": Report,
    }

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {"fit": {"model", "datamodule"}, "validate": {"model", "datamodule"}}

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(self.trainer_class, "trainer", instantiate=False, sub_configs=True)
        parser.add_lightning_class_args(self._model_class, "model", subclass_mode=self.subclass_mode_model)
        parser.add_lightning_class_args(self._datamodule_class, "data", subclass_mode=self.subclass_mode_data)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for key, callback in self.CALLBACKS.items():
            parser.add_lightning_class_args(callback, key)
        parser.link_arguments("seed_everything", "data.seed", compute_fn=seed_of)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self._files = ConfigFiles(args if args is not None else sys.argv[1:])
        self._files.check_sections(sections_of(cast(Parser, parser).keys()))
        try:
            super().parse_arguments(parser, args)
        except (ConfigError, OmegaConfBaseException) as error:
            raise UserError(explain(str(error), self._files)) from error

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except ValueError as error:
            if "Union subtypes" not in str(error):  # so jsonargparse hands on what the constructor of a part has raised
                raise
            raise UserError(explain(str(error), self._files)) from error

    def before_fit(self) -> None:
        self._keep_config()

    def before_validate(self) -> None:
        self._keep_config()

    def _keep_config(self) -> None:
        parser = self._parser(self.subcommand)
        assert parser is not None and self.subcommand is not None
        config = self.config[self.subcommand].clone()
        config["ckpt_path"] = None  # what runs the saved configuration again starts anew
        cast(Trainer, self.trainer).config_yaml = parser.dump(config, skip_unset=False)


def seed_of(seed_everything: bool | int | None) -> int:
    """The seed of prompts and sampling.

    Raises:
        ValueError: It is none that NumPy takes.
    """
    if seed_everything is None or not 0 <= seed_everything < 2**32:
        raise ValueError(f"seed_everything: expected a number from 0 to 2**32 - 1, got {seed_everything}")
    return int(seed_everything)


def main(args: list[str] | None = None) -> None:
    """Runs the command line; bad input ends it with one line and exit code 2, other errors with 1."""
    if not sys.stderr.isatty():
        disable_progress_bar()  # transformers' bars over weights: a log file would hold every step of them
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    code = run(args)
    if dist.is_initialized():
        _end_process(code)
    if code:
        sys.exit(code)


def run(args: list[str] | None) -> int:
    """Runs a command, and prints an error once, on rank 0; returns the exit code."""
    arguments = sys.argv[1:] if args is None else args
    try:
        if arguments and arguments[0] in COMMANDS:
            COMMANDS[arguments[0]](arguments[1:])
        else:
            fit_or_validate(args)
    except OmegaConfBaseException as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except (Exception, KeyboardInterrupt) as error:
        if rank_and_world()[0] == 0 and (text := explanation(error)):
            print(text, file=sys.stderr)
        return exit_code(error)
    return 0


def _end_process(code: int) -> None:
    """Ends one of several processes, without the interpreter's own end: a gloo thread that outlives it aborts the
    process, and a launcher kills rank 0 as soon as another one has exited."""
    sys.stdout.flush()
    sys.stderr.flush()
    if code:
        os._exit(code)
    if "vllm" not in sys.modules:  # vLLM takes the groups down with its engine, at exit, and fails where they are gone
        dist.destroy_process_group()


def fit_or_validate(args: list[str] | None) -> None:
    CLI(
        PolicyModule,
        RolloutDataModule,
        trainer_class=Trainer,  # type: ignore[arg-type]
        parser_class=Parser,
        save_config_callback=None,
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
        seed_everything_default=0,
        parser_kwargs={"description": DESCRIPTION, "prog": "python -m rence_lightning"},
        args=args,
    )
