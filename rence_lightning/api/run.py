"""`fit`, `warmup` and `validate`: what the command line runs, with objects in the place of names."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from signal import SIGINT
from typing import Any, TypeAlias

import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.seed import isolate_rng

from rence_lightning.api.arguments import layer_of
from rence_lightning.api.policy import TrainedPolicy
from rence_lightning.api.result import Result
from rence_lightning.cli.build import run
from rence_lightning.cli.settings import Settings, config_file
from rence_lightning.errors import LINES, PartError, Stopped, UserError, exit_code
from rence_lightning.objectives import Objective
from rence_lightning.prompts import ProblemSource, PromptTemplate
from rence_lightning.rewards import Reward
from rence_lightning.rewards.function import RewardFunction
from rence_lightning.rollouts import RolloutEngine
from rence_lightning.run.directory import Command
from rence_lightning.sampling import PromptFilter

Problems: TypeAlias = ProblemSource | str | Path | Iterable[Mapping[str, Any]] | Sequence[ProblemSource]
"""A source of problems, the path of a file, or rows: dictionaries with `problem`, `answer` and any other fields."""

Part: TypeAlias = Mapping[str, Any] | str
"""A part of a run by the name or import path of its class, or as a dictionary with `class_path` and `init_args`."""

Configs: TypeAlias = str | Path | Sequence[str | Path]


def fit(
    policy: str | Path | None = None,
    problems: Problems | None = None,
    reward: Reward | RewardFunction | Part | None = None,
    *,
    template: PromptTemplate | Part | None = None,
    objective: Objective | Part | None = None,
    filter: PromptFilter | Part | None = None,
    engine: RolloutEngine | Part | None = None,
    held_out: float | None = None,
    held_out_by: str | None = None,
    benchmarks: Mapping[str, Problems | None] | Sequence[str] | None = None,
    learning_rate: float | None = None,
    max_iterations: int | None = None,
    run_dir: str | Path | None = None,
    callbacks: Sequence[Callback | Part] | None = None,
    loggers: Sequence[Logger | Part] | None = None,
    seed: int | None = None,
    ckpt_path: str | Path | None = None,
    config: Configs | None = None,
    **sections: Any,
) -> Result:
    """Trains a policy, as `rence-lightning fit` does.

    What is not given has the value of `config`, else the default of the command line. The run directory, the output and
    the errors are those of the command line, too. An object is used as it is; a class may be named instead.

    Args:
        policy: Policy to train: a folder in the Hugging Face format, a hub name, or `embedded:NAME`.
        problems: Training problems: a source, the path of a file, or rows with `problem`, `answer` and other fields.
        reward: Reward that grades a response: a function of a `Response`, or an object (default: `MathReward`).
        template: Instructions around a problem, with `{problem}` in its place. As text, they are a user's turn of a
            chat wherever the policy has a chat template, and plain text elsewhere (default: the paper's).
        objective: Training loss (default: `MultiLabelNCE`).
        filter: Filter that selects the groups to train on (default: `PositiveRatioFilter`).
        engine: Rollout engine (default: `TransformersEngine`).
        held_out: Share of the problems that are kept out of training and evaluated as the benchmark `held_out`. Which
            ones these are depends on the texts of the problems alone.
        held_out_by: Field of the rows of which equal values stay on one side of that split (default: the problem).
        benchmarks: Further benchmarks by name, or names of the registry (`gsm8k`, ...); their problems are left out of
            training. With this or `held_out`, the benchmarks of `config` are not evaluated.
        learning_rate: Learning rate of the optimizer.
        max_iterations: Number of iterations of rollouts and updates.
        run_dir: Directory of the run; if it already holds a run, the next free one of `RUN_DIR-2`, ... is taken.
        callbacks: Further callbacks, this project's or Lightning's.
        loggers: Further loggers.
        seed: Seed of all that is random.
        ckpt_path: Checkpoint to resume from: `last`, `best`, a run directory or a checkpoint in one.
        config: Configuration to start from: a name of the package's, such as `arithmetic`, or the path of a file, or
            several, of which later ones override earlier ones.
        **sections: Settings of the sections of a configuration by the keys of YAML, such as `data={"group_size": 4}`;
            for the section of a callback also its object.

    Returns:
        The evaluations, metrics and policy of the run.

    Raises:
        UserError: An argument is wrong; the message says which and how to fix it.
        PartError: A reward, filter or other part failed.
        KeyboardInterrupt: The run was interrupted, and has saved its state.
    """
    arguments = {name: value for name, value in locals().items() if name not in ("config", "sections")}
    return _run("fit", config, {**arguments, **sections})


def warmup(
    policy: str | Path | None = None,
    problems: Problems | None = None,
    *,
    epochs: int | None = None,
    learning_rate: float | None = None,
    config: Configs | None = None,
    **settings: Any,
) -> Result:
    """Trains a policy on the solutions of problems, as `rence-lightning warmup` does; its run directory is
    `RUN_DIR-warmup`, and `fit` goes on from the policy in `hf/` there.

    Args:
        policy: Policy to train: a folder in the Hugging Face format, a hub name, or `embedded:NAME`.
        problems: Problems with solutions: a source, a path, or rows with `problem`, `answer` and `solution`.
        epochs: Number of passes over the solutions.
        learning_rate: Learning rate of the optimizer.
        config: Configuration to start from.
        **settings: Further arguments of `fit`, which says what is returned and raised, and sections.
    """
    own = {"epochs": epochs, "learning_rate": learning_rate}
    if "warmup" in settings:
        raise UserError("warmup(): give epochs and learning_rate as arguments, not as a section `warmup`")
    section = {name: value for name, value in own.items() if value is not None}
    return _run("warmup", config, {"policy": policy, "problems": problems, "warmup": section, **settings})


def validate(
    policy: str | Path | None = None,
    benchmarks: Mapping[str, Problems | None] | Sequence[str] | None = None,
    reward: Reward | RewardFunction | Part | None = None,
    *,
    config: Configs | None = None,
    **settings: Any,
) -> Result:
    """Evaluates a policy on benchmarks without training it, as `rence-lightning validate` does.

    The samples are in `evaluations/` of the run directory, `RUN_DIR-validate`.

    Args:
        policy: Policy to evaluate: a folder in the Hugging Face format, a hub name, or `embedded:NAME`.
        benchmarks: Benchmarks by name: a source, the path of a file, or rows; or names of the registry.
        reward: Reward that grades a response.
        config: Configuration to start from.
        **settings: Further arguments of `fit`, and sections.

    Returns:
        The evaluation, as the last of `Result.evaluations`, and the policy.

    Raises:
        UserError: An argument is wrong; the message says which and how to fix it.
        PartError: A reward or another part failed.
        KeyboardInterrupt: The evaluation was interrupted; the same call continues it.
    """
    given = {"policy": policy, "benchmarks": benchmarks, "reward": reward, **settings}
    return _run("validate", config, given if config is not None else {"problems": [], **given})


def _run(command: Command, config: Configs | None, given: dict[str, Any]) -> Result:
    """Builds trainer, module and data module, runs the command, and leaves the process as it was."""
    try:
        configs = [str(config)] if isinstance(config, str | Path) else [str(each) for each in config or ()]
        settings = Settings([f"--config={config_file(each, f'{command}(): config')}" for each in configs])
        settings.layers.append(layer_of(f"{command}()", given, settings.layers))
        with _isolated():
            cli = run(command, settings)
            if cli.unnamed and cli.trainer.is_global_zero:
                parts = "; ".join(f"{key} is {what}" for key, what in cli.unnamed.items())
                print(f"config.yaml will not repeat this run by itself: {parts}")
    except (UserError, *LINES) as error:  # the message says all
        raise error.with_traceback(None) from None
    except PartError as error:  # the frames of the loop say nothing that helps
        raise error.with_traceback(None) from error.__cause__
    except Stopped as stopped:
        if stopped.signal == SIGINT:
            raise KeyboardInterrupt from stopped
        raise SystemExit(exit_code(stopped)) from stopped
    cli.datamodule.trainer = None  # with it, the result would keep the optimizer's state in memory
    return Result(cli.trainer.run_dir, TrainedPolicy(cli.model, cli.datamodule))


@contextmanager
def _isolated() -> Iterator[None]:
    """Restores random generators, environment variables, threads and progress bars at the end of the block."""
    from transformers.utils import logging

    bars, threads = logging.is_progress_bar_enabled(), torch.get_num_threads()
    variables = {name: os.environ.get(name) for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")}
    generators = isolate_rng()
    generators.__enter__()
    try:
        yield
    finally:
        generators.__exit__(None, None, None)  # which restores nothing where it is told of an error
        torch.set_num_threads(threads)
        if bars:
            logging.enable_progress_bar()
        for name, value in variables.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
