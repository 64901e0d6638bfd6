"""LightningCLI over the project's trainer, module, data module and callbacks."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from jsonargparse import set_parsing_settings
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from omegaconf.errors import OmegaConfBaseException

from rence_lightning import callbacks
from rence_lightning.cli.arguments import PROGRAM, with_examples
from rence_lightning.cli.config_errors import explain, sections_of
from rence_lightning.cli.config_files import ConfigFiles
from rence_lightning.cli.help import explanation
from rence_lightning.cli.objects import put_objects, put_rows
from rence_lightning.cli.output import hide_bars_in_files
from rence_lightning.cli.parser import ConfigError, Parser
from rence_lightning.cli.sections import CALLBACKS
from rence_lightning.errors import UserError, one_line
from rence_lightning.sampling.datamodule import RolloutDataModule
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.trainer import Trainer

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
    "validate": with_examples(
        "Evaluate a policy on the benchmarks of the section `evaluation`, without training it.",
        [
            "validate --config arithmetic --model.policy runs/arithmetic/hf",
            "validate --config arithmetic --ckpt_path best --evaluation.repeats 8",
        ],
    ),
}


class CLI(LightningCLI):
    """Reads the configuration of one command and runs it.

    The callbacks that make up the method have keys of their own, so that an overlay can change one setting of one of
    them; `trainer.callbacks` adds to them.

    Args:
        command: The command, `fit` or `validate`.
        arguments: The arguments after it.
        files: The configuration files that they name.
        objects: Objects that the run uses instead of building them from their settings, by the way to these.
        problems: Rows of problems by the name of the file that holds them in the run directory.
    """

    def __init__(
        self,
        command: str,
        arguments: list[str],
        files: ConfigFiles,
        objects: Mapping[tuple[str | int, ...], Any] | None = None,
        problems: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    ) -> None:
        self._objects = objects or {}
        self._problems = problems or {}
        self._command = command
        self._files = files
        hide_bars_in_files()
        set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
        super().__init__(
            PolicyModule,
            RolloutDataModule,
            trainer_class=Trainer,  # type: ignore[arg-type]
            parser_class=Parser,
            save_config_callback=None,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            seed_everything_default=0,
            parser_kwargs={command: {"description": DESCRIPTIONS[command] + "\n" + explanation()}},
            args=[command, *arguments],
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The command that runs; a parser for the others would cost time for nothing."""
        return {self._command: {"model", "datamodule"}}

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the seed."""
        parser.add_argument(
            "--seed_everything",
            type=bool | int,
            default=self.seed_everything_default,
            help="Seed of the order of the prompts, of sampling and of all else that is random.",
        )

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the sections of trainer, module and data module."""
        parser.add_class_arguments(self.trainer_class, "trainer", instantiate=False, sub_configs=True)
        parser.add_lightning_class_args(self._model_class, "model", subclass_mode=self.subclass_mode_model)
        parser.add_lightning_class_args(self._datamodule_class, "data", subclass_mode=self.subclass_mode_data)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the sections of the callbacks."""
        for key, name in CALLBACKS.items():
            parser.add_lightning_class_args(getattr(callbacks, name), key)
        parser.link_arguments("seed_everything", "data.seed", compute_fn=seed_of)

    def setup_parser(
        self, add_subcommands: bool, main_kwargs: dict[str, Any], subparser_kwargs: dict[str, Any]
    ) -> None:
        """Builds the parser, and arranges its help."""
        super().setup_parser(add_subcommands, main_kwargs, subparser_kwargs)
        arrange_help(self._subcommand_parsers[self._command], self._command)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses the command line.

        Raises:
            UserError: It is wrong, or a file of it is.
        """
        self._files.check_sections(sections_of(cast(Parser, parser).keys()))
        try:
            self.config = parser.parse_args(args)
        except ConfigError as error:
            raise UserError(explain(str(error), self._files, error.file)) from error
        except OmegaConfBaseException as error:
            raise UserError(explain(str(error), self._files)) from error

    def before_instantiate_classes(self) -> None:
        """Writes the configuration down, and puts objects in the place of their settings."""
        parser = self._parser(self._command)
        assert parser is not None
        settings = self.config[self._command]
        written = settings.clone()
        written["ckpt_path"] = None  # running the saved configuration again starts a new run
        self._config_yaml = parser.dump(written, skip_unset=False)
        put_objects(settings, self._objects)
        if self._problems:
            put_rows(settings, self._problems)

    def instantiate_classes(self) -> None:
        """Builds trainer, module and data module.

        Raises:
            UserError: A part refuses its settings.
        """
        try:
            super().instantiate_classes()
        except ValueError as error:
            if "Union subtypes" not in str(error):  # jsonargparse's report of what the constructor of a part raised
                raise
            raise UserError(explain(str(error), self._files)) from error

    def after_instantiate_classes(self) -> None:
        """Hands the configuration to the trainer, which saves it in the run directory."""
        trainer = cast(Trainer, self.trainer)
        trainer.session.config_yaml, trainer.session.problem_files = self._config_yaml, self._problems


def run(command: str, arguments: list[str], files: ConfigFiles, cls: type[CLI] = CLI, **given: Any) -> CLI:
    """Runs a command to its end.

    Args:
        command: The command, `fit` or `validate`.
        arguments: The arguments after it.
        files: The configuration files that they name.
        cls: Class that runs it.
        **given: Further arguments of the class.

    Raises:
        UserError: The configuration is wrong.
    """
    try:
        return cls(command, arguments, files, **given)
    except OmegaConfBaseException as error:
        raise UserError(one_line(error)) from error


class ConfigReader(CLI):
    """Reads and checks the configuration of a command, and builds and runs nothing."""

    def _set_seed(self) -> None: ...

    def instantiate_classes(self) -> None: ...

    def after_instantiate_classes(self) -> None: ...

    def _run_subcommand(self, subcommand: str) -> None: ...


def read_config(command: str, arguments: list[str], files: ConfigFiles) -> dict[str, Any]:
    """The complete configuration of a command, as plain settings.

    Args:
        command: The command, `fit` or `validate`.
        arguments: The arguments after it.
        files: The configuration files that they name.

    Raises:
        UserError: The configuration is wrong.
    """
    config: dict[str, Any] = run(command, arguments, files, ConfigReader).config[command].as_dict()
    return config


def arrange_help(parser: LightningArgumentParser, command: str) -> None:
    """Puts keys without a section first, and names the section in each heading."""
    parser.prog = f"{PROGRAM} {command}"
    parser.usage = "%(prog)s --config NAME|FILE [--config OVERLAY ...] [--SECTION.KEY VALUE ...]"
    options = next(group for group in parser._action_groups if group.title == "options")
    for name, group in (parser.groups or {}).items():
        group.title = f"{name}: {group.title}"
    kept = []
    for group in parser._action_groups:
        if group is not options and any(action.dest == "ckpt_path" for action in group._group_actions):
            options._group_actions += group._group_actions
        elif group.title != "Linked arguments":
            kept.append(group)
    parser._action_groups = kept


def seed_of(seed_everything: bool | int | None) -> int:
    """The seed of prompts and sampling.

    Raises:
        ValueError: NumPy does not take the seed.
    """
    if seed_everything is None or not 0 <= seed_everything < 2**32:
        raise ValueError(f"seed_everything: expected a number from 0 to 2**32 - 1, got {seed_everything}")
    return int(seed_everything)
