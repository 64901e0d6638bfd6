"""What a model card says of an exported policy, read from its run directory."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rence_lightning.errors import UserError
from rence_lightning.evaluation import Description, Difference, compare
from rence_lightning.evaluation.comparison import MACRO
from rence_lightning.prompts.cleaning import REASONS
from rence_lightning.report.run_record import RunRecord
from rence_lightning.run.directory import Run, SavedAt

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class CardFacts:
    """What a model card says, read from a run directory; what the directory does not hold is None or empty.

    Attributes:
        run: Contents of the run directory.
        saved: Moment of training that the policy is from.
        folder: Folder with the exported policy.
    """

    run: RunRecord
    saved: SavedAt
    folder: Path

    @cached_property
    def name(self) -> str:
        return self.run.path.resolve().name

    @cached_property
    def is_adapter(self) -> bool:
        """Whether the folder holds a low-rank adapter to the base policy, and not a whole policy."""
        return (self.folder / "adapter_config.json").exists()

    # ---- what it was trained from, and how --------------------------------------------------------------------------

    @cached_property
    def base(self) -> str | None:
        """The policy that training started from."""
        name, first = self.run.setting("model.policy"), self._description(0)
        if name is None and first is not None:
            name = first.policy
        return None if name is None else str(name)

    @property
    def base_on_hub(self) -> bool:
        """Whether the base policy is named as on the hub, and is no folder of this machine."""
        return HUB_NAME.fullmatch(self.base or "") is not None and not Path(self.base or "").exists()

    @cached_property
    def settings(self) -> dict[str, str]:
        """The settings that define the method, by description."""
        setting = self.run.setting
        lr = setting("model.optimizer.init_args.lr")
        optimizer = _part(setting("model.optimizer"), ())
        rows = {
            "objective": _part(setting("model.objective")),
            "trust region": self._trust_region,
            "filter of prompts": _part(setting("data.filter")),
            "reward": _part(setting("data.reward"), ()),
            "group size (K), responses to each prompt": setting("data.group_size"),
            "prompts per iteration (B)": setting("data.prompts_per_iteration"),
            "prompts per update": setting("data.prompts_per_update"),
            "iterations": f"{self.saved.iteration} of {setting('trainer.max_iterations') or self.run.iterations}",
            "updates": self.saved.updates_total,
            "optimizer": f"{optimizer}, learning rate {lr:g}" if optimizer and isinstance(lr, float) else optimizer,
            "sampling in training": _plain(setting("data.sampling")),
            "precision": ", ".join(filter(None, (setting("model.dtype"), setting("trainer.precision")))),
            "low-rank adapters": _plain(setting("model.lora")),
            "seed": setting("seed_everything"),
        }
        return {name: str(value) for name, value in rows.items() if value not in (None, "")}

    @property
    def _trust_region(self) -> str | None:
        region = self.run.setting("model.trust_region")
        if not isinstance(region, dict):
            return None
        adaptive = self.run.setting("adaptive_kl") or {}
        target = f", adapted to a KL of {adaptive.get('target_kl')}" if adaptive.get("enabled", True) else ""
        limit = f", squared beyond {region['limit']}" if region.get("limit") is not None else ""
        reference = self.run.setting("model.reference")
        second = f"; KL to the first policy, coefficient {reference.get('kl_coef')}" if reference else ""
        return f"KL to the policy of the iteration's start, coefficient {region.get('kl_coef')}{target}{limit}{second}"

    # ---- data -------------------------------------------------------------------------------------------------------

    @cached_property
    def sources(self) -> list[str]:
        """The sources of training problems, one line each."""
        return [line for source in self.run.setting("data.problems") or [] if (line := _part(source))]

    @property
    def hub_data_sets(self) -> list[str]:
        """The names on the hub of the training problems' data sets."""
        sources = self.run.setting("data.problems") or []
        names = [source.get("init_args", {}).get("name") for source in sources if _class(source) == "HubProblems"]
        return [name for name in dict.fromkeys(names) if name]

    @property
    def left_out(self) -> dict[str, int]:
        """The number of training problems that cleaning left out, by reason."""
        dropped = self.run.training_problems.get("dropped", {})
        return {REASONS.get(reason, reason): count for reason, count in dropped.items()}

    @property
    def held_out(self) -> list[str]:
        """The benchmarks whose problems are left out of training."""
        return list(dict.fromkeys([*self.run.benchmarks, *(self.run.setting("evaluation.held_out") or {})]))

    @property
    def template(self) -> dict[str, Any]:
        """The template of the prompts: `text`, `chat`, `thinking`, `system`; the problem alone if it is not known."""
        template = {"text": "{problem}", "chat": False, "thinking": False, "system": None}
        given = self.run.setting("data.template")
        if isinstance(given, dict):
            arguments = given.get("init_args") or {}
            template = {**template, "chat": True, **arguments}
            if "text" in arguments and template["chat"] is not None:
                return template  # otherwise a class of the user's, or the tokenizer, decided
        settings = getattr(self._description(self.saved.iteration), "settings", {})
        keys = {"text": "template", "chat": "chat", "thinking": "thinking", "system": "system"}
        return {name: settings.get(key, template[name]) for name, key in keys.items()}

    @property
    def example(self) -> str:
        """A problem of a benchmark, for the example of use."""
        for name in self.after or {}:
            for problem in self.run.samples(self.saved.iteration, name).values():
                return problem.problem
        return "What is 7 times 8?"

    # ---- evaluation -------------------------------------------------------------------------------------------------

    @cached_property
    def before(self) -> dict[str, dict[str, float]] | None:
        """The figures of each benchmark before training; None where they are not known, or are those of this policy."""
        return self._figures(0) if self.saved.updates_total else None

    @cached_property
    def after(self) -> dict[str, dict[str, float]] | None:
        """The figures of this policy on each benchmark; None if it was not evaluated."""
        return None if self.saved.update else self._figures(self.saved.iteration)

    def _figures(self, iteration: int) -> dict[str, dict[str, float]] | None:
        lines = [line for line in self.run.evaluations if line["iteration"] == iteration]
        return lines[0]["benchmarks"] if lines else None

    @cached_property
    def differences(self) -> Mapping[str, Difference]:
        """The changes from before training to this policy; empty where the samples are missing."""
        if self.before is None or self.after is None:
            return {}
        try:
            return compare(self.run.sample_folder(0), self.run.sample_folder(self.saved.iteration))
        except UserError:  # samples were removed, or the benchmarks changed during the run
            return {}

    @property
    def macro(self) -> Difference | None:
        """The change of the mean over benchmarks; None where there is one benchmark."""
        return self.differences.get(MACRO)

    @property
    def chosen_from(self) -> int:
        """The number of evaluations after training began, from which a best checkpoint may have been chosen."""
        return sum(line["iteration"] > 0 for line in self.run.evaluations)

    @property
    def is_chosen(self) -> bool:
        """Whether the policy is one of several evaluated ones, chosen by its figures."""
        earlier = any(line["iteration"] > self.saved.iteration for line in self.run.evaluations)
        return self.chosen_from > 1 and (earlier or self.run.setting("export.which") == "best")

    @cached_property
    def repeats(self) -> int | None:
        return self._evaluated("repeats", "evaluation.repeats")

    @property
    def accuracy(self) -> str:
        """The name of the share of correct responses, such as `avg@4`."""
        return f"avg@{self.repeats or 'k'}"

    @cached_property
    def temperature(self) -> float | None:
        return self._evaluated("temperature", "evaluation.sampling.temperature")

    @cached_property
    def evaluation_settings(self) -> str:
        """How responses were sampled in evaluations."""
        top_p = self._evaluated("top_p", "evaluation.sampling.top_p")
        tokens = self._evaluated("max_response_tokens", "evaluation.sampling.max_response_tokens")
        parts = {f"temperature {self.temperature}": self.temperature, f"top-p {top_p}": top_p}
        parts[f"at most {tokens} tokens"] = tokens
        return ", ".join(text for text, value in parts.items() if value is not None)

    def _evaluated(self, name: str, key: str) -> Any:
        description = self._description(self.saved.iteration) or self._description(0)
        return description.settings.get(name) if description is not None else self.run.setting(key)

    def _description(self, iteration: int) -> Description | None:
        try:
            return self.run.sample_folder(iteration).description()
        except UserError:  # the policy was not evaluated at this moment, or the samples were removed
            return None

    # ---- how to repeat it -------------------------------------------------------------------------------------------

    @cached_property
    def sessions(self) -> tuple[dict[str, Any], ...]:
        """The records of each start and resume of the run."""
        run = Run.open(self.run.path)
        return run.sessions if run is not None else ()

    @property
    def made_with(self) -> list[str]:
        """Versions of packages, and commits of repositories, of each session; equal ones once."""
        lines = []
        for session in self.sessions:
            parts = [f"{package} {version}" for package, version in session.get("versions", {}).items()]
            commits: dict[str, list[str]] = {}
            for where, commit in session.get("commits", {}).items():
                commits.setdefault(commit, []).append(_REPOSITORIES.get(where, where))
            parts += [f"commit {commit} of {' and '.join(where)}" for commit, where in commits.items()]
            lines.append("; ".join(parts))
        return [line for line in dict.fromkeys(lines) if line]

    @property
    def changed(self) -> list[str]:
        """The settings that were changed when the run was resumed."""
        return [change for session in self.sessions for change in session.get("changed", [])]

    @property
    def fence(self) -> str:
        """A fence for code and configuration, longer than any that is in them."""
        inside = f"{self.run.config_yaml} {self.template['text']} {self.template['system']} {self.example}"
        longest = max((len(ticks) for ticks in re.findall(r"`+", inside)), default=0)
        return "`" * max(3, longest + 1)


_REPOSITORIES = {"working_directory": "the working directory", "rence_lightning": "rence_lightning"}


def _class(part: Any) -> str:
    return str(part.get("class_path", "")).rpartition(".")[2] if isinstance(part, dict) else ""


def _part(part: Any, arguments: tuple[str, ...] | None = None) -> str | None:
    """A part of the configuration in a line: its class, and its settings (all that are plain values by default)."""
    if not (name := _class(part)):
        return None
    given = part.get("init_args") or {}
    shown = _plain({key: given[key] for key in given if arguments is None or key in arguments})
    return f"{name} ({shown})" if shown else name


def _plain(settings: Any) -> str | None:
    """Settings in a line, without nested and empty ones."""
    if not isinstance(settings, dict):
        return None
    shown = {key: value for key, value in settings.items() if value is not None and not isinstance(value, dict)}
    return ", ".join(f"{key} {value}" for key, value in shown.items()) or None
