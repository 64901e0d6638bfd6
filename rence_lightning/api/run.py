"""`fit` and `validate`: their arguments as a configuration, which runs as it does on the command line."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from signal import SIGINT
from typing import Any, Literal, TypeAlias, cast

from lightning.pytorch.callbacks import Callback as LightningCallback
from lightning.pytorch.loggers import Logger

from rence_lightning.api.arguments import Arguments
from rence_lightning.api.isolation import isolated
from rence_lightning.api.policy import TrainedPolicy
from rence_lightning.api.result import Result
from rence_lightning.callbacks import Callback
from rence_lightning.cli.config_files import ConfigFiles
from rence_lightning.cli.lightning_cli import CLI, run
from rence_lightning.errors import LINES, Stopped, UserError, exit_code
from rence_lightning.objectives import Objective
from rence_lightning.prompts import ProblemSource, PromptTemplate
from rence_lightning.rewards import Reward
from rence_lightning.rewards.function import RewardFunction
from rence_lightning.rollouts import RolloutEngine
from rence_lightning.sampling import PromptFilter
from rence_lightning.sampling.datamodule import RolloutDataModule
from rence_lightning.training import PolicyModule, Trainer

Problems: TypeAlias = ProblemSource | str | Path | Iterable[Mapping[str, Any]] | Sequence[ProblemSource]
"""A source of problems, the path of a file, or rows: dictionaries with `problem`, `answer` and any other fields."""

Settings: TypeAlias = Mapping[str, Any]
"""Settings by the keys of YAML; where YAML has a `class_path`, an object may stand."""


def fit(
    policy: str | Path | None = None,
    problems: Problems | None = None,
    reward: Reward | RewardFunction | Settings | str | None = None,
    *,
    template: str | PromptTemplate | Settings | None = None,
    objective: Objective | Settings | str | None = None,
    filter: PromptFilter | Settings | str | None = None,
    engine: RolloutEngine | Settings | str | None = None,
    held_out: float | None = None,
    held_out_by: str | None = None,
    benchmarks: Mapping[str, Problems | None] | Sequence[str] | None = None,
    learning_rate: float | None = None,
    max_iterations: int | None = None,
    run_dir: str | Path | None = None,
    callbacks: Sequence[LightningCallback | Settings] | None = None,
    loggers: Sequence[Logger | Settings] | None = None,
    seed: int | None = None,
    ckpt_path: str | Path | None = None,
    config: str | Path | Sequence[str | Path] | None = None,
    trainer: Settings | None = None,
    model: Settings | None = None,
    data: Settings | None = None,
    evaluation: Settings | Callback | None = None,
    **sections: Settings | Callback,
) -> Result:
    """Trains a policy, as `rence-lightning fit` does.

    What is not given has the value of `config`, else the default of the command line. The run directory, the output and
    the errors are those of the command line, too. An object is used as it is; a class may be named instead, by its
    name or import path or as a dictionary with `class_path` and `init_args`.

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
        trainer: Settings of the section `trainer`.
        model: Settings of the section `model`.
        data: Settings of the section `data`.
        evaluation: Settings of the section `evaluation`.
        **sections: Settings of the other sections of a configuration, such as `checkpoint` or `adaptive_kl`.

    Returns:
        The evaluations, metrics and policy of the run.

    Raises:
        UserError: An argument is wrong; the message says which and how to fix it.
        PartError: A reward, filter or other part failed.
        KeyboardInterrupt: The run was interrupted, and has saved its state.
    """
    arguments = Arguments("fit", sections, trainer=trainer, model=model, data=data, evaluation=evaluation)
    arguments.policy(policy, learning_rate, objective)
    arguments.problems(problems, held_out, held_out_by, benchmarks)
    arguments.parts(reward=reward, template=template, filter=filter, engine=engine)
    arguments.trainer(max_iterations=max_iterations, run_dir=run_dir, callbacks=callbacks, loggers=loggers)
    return _run("fit", arguments, config, seed, ckpt_path)


def validate(
    policy: str | Path | None = None,
    benchmarks: Mapping[str, Problems | None] | Sequence[str] | None = None,
    reward: Reward | RewardFunction | Settings | str | None = None,
    *,
    template: str | PromptTemplate | Settings | None = None,
    engine: RolloutEngine | Settings | str | None = None,
    run_dir: str | Path | None = None,
    callbacks: Sequence[LightningCallback | Settings] | None = None,
    loggers: Sequence[Logger | Settings] | None = None,
    seed: int | None = None,
    ckpt_path: str | Path | None = None,
    config: str | Path | Sequence[str | Path] | None = None,
    trainer: Settings | None = None,
    model: Settings | None = None,
    data: Settings | None = None,
    evaluation: Settings | Callback | None = None,
    **sections: Settings | Callback,
) -> Result:
    """Evaluates a policy on benchmarks without training it, as `rence-lightning validate` does.

    The arguments are those of `fit`. The samples are in `evaluations/` of the run directory, `RUN_DIR-validate`.

    Args:
        policy: Policy to evaluate: a folder in the Hugging Face format, a hub name, or `embedded:NAME`.
        benchmarks: Benchmarks by name: a source, the path of a file, or rows; or names of the registry.
        reward: Reward that grades a response.
        template: Instructions around a problem.
        engine: Rollout engine.
        run_dir: Directory of the run, without the `-validate` that is appended.
        callbacks: Further callbacks.
        loggers: Further loggers.
        seed: Seed of the samples.
        ckpt_path: Checkpoint whose weights are evaluated instead of those of `policy`.
        config: Configuration to start from.
        trainer: Settings of the section `trainer`.
        model: Settings of the section `model`.
        data: Settings of the section `data`.
        evaluation: Settings of the section `evaluation`.
        **sections: Settings of the other sections.

    Returns:
        The evaluation, as the last of `Result.evaluations`, and the policy.

    Raises:
        UserError: An argument is wrong; the message says which and how to fix it.
        PartError: A reward or another part failed.
        KeyboardInterrupt: The evaluation was interrupted; the same call continues it.
    """
    arguments = Arguments("validate", sections, trainer=trainer, model=model, data=data, evaluation=evaluation)
    arguments.policy(policy, None, None)
    arguments.problems([] if config is None else None, None, None, benchmarks)
    arguments.parts(reward=reward, template=template, engine=engine)
    arguments.trainer(run_dir=run_dir, callbacks=callbacks, loggers=loggers)
    return _run("validate", arguments, config, seed, ckpt_path)


def _run(
    command: Literal["fit", "validate"],
    arguments: Arguments,
    config: str | Path | Sequence[str | Path] | None,
    seed: int | None,
    ckpt_path: str | Path | None,
) -> Result:
    """Runs a command as the command line does, and leaves the process as it was.

    Raises:
        UserError: The configuration is wrong.
        KeyboardInterrupt: The run was interrupted.
    """
    try:
        with isolated():
            line = arguments.command_line(config, seed, ckpt_path)
            cli: CLI = run(
                command, line, ConfigFiles(line), objects=arguments.found.objects, problems=arguments.found.files
            )
    except (UserError, *LINES) as error:  # the message says all
        raise error.with_traceback(None) from None
    except Stopped as stopped:
        if stopped.signal == SIGINT:
            raise KeyboardInterrupt from stopped
        raise SystemExit(exit_code(stopped)) from stopped
    trainer, module, data = cast(Trainer, cli.trainer), cast(PolicyModule, cli.model), cli.datamodule
    data.trainer = None  # with it, the result would keep the optimizer's state in memory
    return Result.of(trainer.run_dir, TrainedPolicy(module, cast(RolloutDataModule, data)))
