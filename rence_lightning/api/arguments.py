"""The arguments of `fit` and `validate` as settings of a configuration."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from rence_lightning import callbacks
from rence_lightning.api.settings import Found, NotImportableError, as_settings
from rence_lightning.cli.config_files import Settings
from rence_lightning.cli.package_configs import config_file
from rence_lightning.cli.sections import CALLBACKS
from rence_lightning.errors import UserError
from rence_lightning.prompts import FileProblems, ListProblems, ProblemSource
from rence_lightning.prompts.rows import RowSchema
from rence_lightning.rewards import FunctionReward, Reward
from rence_lightning.text import did_you_mean

HELD_OUT = "held_out"
"""Name of the benchmark of the problems that are held out."""


class Arguments:
    """Settings by section, to which the arguments of a call are added.

    Args:
        command: Function that was called, `fit` or `validate`.
        others: Settings of sections that have no argument of their own.
        **sections: Settings of the sections that have one; None for no settings.

    Attributes:
        found: Objects and rows among the settings, after `command_line`.

    Raises:
        UserError: There is no such section, or it is given something other than settings.
    """

    def __init__(self, command: str, others: Mapping[str, Any], **sections: Any) -> None:
        self._command = command
        self._settings: dict[str, dict[str, Any]] = {}
        self.found = Found()
        for name, given in {**sections, **others}.items():
            if name not in sections and name not in CALLBACKS:
                known = [*sections, *CALLBACKS]
                raise UserError(
                    f"{command}(): there is no argument or section {name!r}{did_you_mean(name, known)}; the sections "
                    f"are {', '.join(dict.fromkeys(known))}"
                )
            if given is not None:
                self._settings[name] = self._section(name, given)

    def _section(self, name: str, given: Any) -> dict[str, Any]:
        kind = getattr(callbacks, CALLBACKS.get(name, ""), None)
        if kind is not None and type(given) is kind:
            return dict(given.arguments())
        if not isinstance(given, Mapping):
            expected = "a dictionary of settings" + (f", or an object of {kind.__name__}" if kind is not None else "")
            raise UserError(f"{self._command}(): {name} is {given!r:.80}; give {expected}")
        return dict(given)

    def _set(self, section: str, key: str, value: Any, argument: str | None = None) -> None:
        """Sets a key, unless the value is None.

        Raises:
            UserError: The section already has the key.
        """
        if value is None:
            return
        settings = self._settings.setdefault(section, {})
        if key in settings:
            raise UserError(
                f"{self._command}(): {argument or key} is given twice, by itself and as {section}[{key!r}]; remove one"
            )
        settings[key] = value

    def policy(self, policy: str | Path | None, learning_rate: float | None, objective: Any) -> None:
        """Adds what is trained, and how."""
        self._set("model", "policy", policy)
        self._set("model", "objective", objective)
        if learning_rate is not None:
            self._set("model", "optimizer", {"init_args": {"lr": learning_rate}}, "learning_rate")

    def parts(self, **parts: Any) -> None:
        """Adds parts of the section `data`; a function as a reward, and text as a template."""
        if callable(reward := parts.get("reward")) and not isinstance(reward, Reward | type):
            parts["reward"] = FunctionReward(reward)
        if isinstance(reward, list | tuple):
            raise UserError(f"{self._command}(): reward is a list; give one, or a CombinedReward of several")
        if isinstance(template := parts.get("template"), str):
            parts["template"] = {"text": template, "chat": None}
        for key, part in parts.items():
            self._set("data", key, part)

    def trainer(self, **settings: Any) -> None:
        """Adds settings of the section `trainer`."""
        for key, value in settings.items():
            self._set("trainer", key, value)

    def problems(self, problems: Any, held_out: float | None, held_out_by: str | None, benchmarks: Any) -> None:
        """Adds training problems and benchmarks.

        Raises:
            UserError: The given values are not problems, or cannot be split.
        """
        named = {} if benchmarks is None else self._benchmarks(benchmarks)
        if problems is not None:
            sources = self._sources("problems", problems)
            if held_out is not None:
                if len(sources) != 1:
                    raise UserError(
                        f"fit(): held_out splits one source of problems, and problems holds {len(sources)}; join the "
                        "rows, or name the problems to hold out as benchmarks"
                    )
                named[HELD_OUT] = self._part(sources[0], "test", held_out, held_out_by)
                sources = [self._part(each, "train", held_out, held_out_by) for each in sources]
            self._set("data", "problems", sources)
        elif held_out is not None:
            raise UserError("fit(): held_out is a share of the problems; give the problems, too")
        if held_out_by is not None and held_out is None:
            raise UserError("fit(): held_out_by is given without held_out; give the share that is held out, too")
        self._set("evaluation", "benchmarks", named or None)

    def _benchmarks(self, benchmarks: Any) -> dict[str, Any]:
        if isinstance(benchmarks, str):
            benchmarks = [benchmarks]
        if not isinstance(benchmarks, Mapping):
            benchmarks = dict.fromkeys(benchmarks)
        return {
            str(name): each if each is None else self._one(self._sources(f"benchmarks[{name!r}]", each, str(name)))
            for name, each in benchmarks.items()
        }

    def _sources(self, argument: str, given: Any, name: str = "problems") -> list[Any]:
        """Problems as sources of problems; rows are a data set of the given name.

        Raises:
            UserError: A value is neither rows nor a path nor a source of problems.
        """
        if isinstance(given, ProblemSource):
            return [given]
        if isinstance(given, str | Path):
            return [FileProblems(str(given))]
        if isinstance(given, Mapping):  # a class_path and its settings
            return [given]
        if not isinstance(given, Iterable):
            raise UserError(f"{self._command}(): {argument} is {given!r:.80}; give rows, a path, or a ProblemSource")
        items = list(given)
        sources = [each for each in items if isinstance(each, ProblemSource) or _names_a_class(each)]
        if len(sources) == len(items):
            return sources
        if sources or not all(isinstance(each, Mapping) for each in items):
            other = next(each for each in items if sources or not isinstance(each, Mapping))
            raise UserError(
                f"{self._command}(): {argument} holds {other!r:.80}; give dictionaries with 'problem' and 'answer' "
                "(of a pandas DataFrame: frame.to_dict('records')), or sources of problems alone"
            )
        return [ListProblems(items, source=name)]

    def _one(self, sources: list[Any]) -> Any:
        if len(sources) != 1:
            raise UserError(f"{self._command}(): a benchmark has one source of problems, not {len(sources)}")
        return sources[0]

    def _part(self, source: Any, part: str, share: float, by: str | None) -> Any:
        if not isinstance(source, RowSchema):
            kind = type(source).__name__
            raise UserError(
                f"fit(): held_out cannot split {kind}; give rows or a file, or the problems to hold out as benchmarks"
            )
        split = {"part": part, "held_out": share, "part_field": by}
        if isinstance(source, ListProblems) and part == "test":
            split["source"] = HELD_OUT
        return replace(source, **split)

    def _check_strategy(self) -> None:
        """Refuses a strategy that is an object, because each process of a run builds its own.

        Raises:
            UserError: It is one.
        """
        strategy = self._settings.get("trainer", {}).get("strategy")
        if strategy is not None and not isinstance(strategy, str | Mapping | type):
            name = type(strategy).__name__
            raise UserError(f"{self._command}(): trainer['strategy'] is an object; give the class {name}, or its name")

    def command_line(
        self, config: str | Path | Sequence[str | Path] | None, seed: int | None, ckpt_path: str | Path | None
    ) -> list[str]:
        """The arguments of the command that means the same.

        Raises:
            UserError: A configuration does not exist, or a setting has no import path.
        """
        configs = [config] if isinstance(config, str | Path) else list(config or [])
        if not configs:
            self._check_complete()
        self._check_strategy()
        line = [f"--config={config_file(str(each), f'{self._command}(): config')}" for each in configs]
        settings: dict[str, Any] = {} if seed is None else {"seed_everything": seed}
        for section, given in self._settings.items():
            for key, value in given.items():
                try:
                    settings.setdefault(section, {})[key] = as_settings(value, (section, key), self.found)
                except NotImportableError as error:
                    raise UserError(f"{self._command}(): {section}.{key} holds {error}") from error
        if settings:
            text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
            line += ["--config", Settings(text, f"{self._command}()")]
        return line if ckpt_path is None else [*line, f"--ckpt_path={ckpt_path}"]

    def _check_complete(self) -> None:
        """Refuses a call that leaves out what has no default.

        Raises:
            UserError: It does.
        """
        needed = {"policy": "model", "problems": "data"}
        missing = [key for key, section in needed.items() if key not in self._settings.get(section, {})]
        if missing:
            raise UserError(f"{self._command}(): give {' and '.join(missing)}, or a config such as config='arithmetic'")


def _names_a_class(given: Any) -> bool:
    return isinstance(given, Mapping) and "class_path" in given
