"""The command line: configurations that are complete and run again, overrides, and parts by class_path."""

import inspect
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
import yaml
from command_line import CONF, config_of, error_of
from lightning.pytorch.callbacks import EarlyStopping

from rence_lightning import __version__
from rence_lightning.cli.commands import COMMANDS
from rence_lightning.cli.declared import SECTIONS, declared, groups, keys
from rence_lightning.cli.keys import CLASSES, key_type
from rence_lightning.cli.main import main
from rence_lightning.cli.settings import known_names
from rence_lightning.errors import StarvationError, Stopped
from rence_lightning.objectives import MultiLabelNCE, SoftmaxContrast
from rence_lightning.rollouts import TransformersEngine
from rence_lightning.training.trainer import Trainer

ARITHMETIC = f"--config={CONF / 'arithmetic.yaml'}"
SMALL = (
    "--evaluation.limit=4",
    "--evaluation.repeats=1",
    "--data.prompts_per_iteration=2",
    "--data.prompts_per_update=1",
)

# Every file of conf/; what lies in a folder is laid over a complete configuration.
OVERLAYS = [
    *([file] for file in sorted(CONF.glob("*.yaml"))),
    *([CONF / "rence.yaml", file] for file in sorted(CONF.glob("*/*.yaml"))),
]


def capture_fit(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict[str, Any]:
    """What `fit` would be called with."""
    seen: dict[str, Any] = {}

    def fit(trainer: Trainer, model: Any, datamodule: Any, ckpt_path: str | None = None) -> None:
        seen.update(trainer=trainer, model=model, data=datamodule, ckpt_path=ckpt_path)

    monkeypatch.setattr(Trainer, "fit", fit)
    main(["fit", *arguments])
    return seen


def test_the_engine_is_closed_when_a_command_has_succeeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM must shut down before the process groups end; after an error, the process ends at once."""
    closed = []
    monkeypatch.setattr(TransformersEngine, "close", lambda self: closed.append(self), raising=False)
    arguments = [ARITHMETIC, f"--trainer.run_dir={tmp_path / 'run'}"]
    data = capture_fit(monkeypatch, *arguments)["data"]
    assert closed == [data.engine]

    def fail(*_: Any) -> None:
        raise StarvationError("the cause")

    monkeypatch.setattr(Trainer, "fit", fail)
    with pytest.raises(SystemExit):
        main(["fit", *arguments])
    assert closed == [data.engine]


@pytest.mark.parametrize("files", OVERLAYS, ids=lambda files: "+".join(file.stem for file in files))
def test_every_configuration_is_complete_and_parses_to_itself(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RENCE_DATA", "/somewhere")
    config = config_of("fit", *(f"--config={file}" for file in files))
    for part in parts(config):
        settings = set(list(inspect.signature(class_of(part).__init__).parameters)[1:])
        assert part.get("init_args", {}).keys() <= settings
        if part["class_path"].startswith("rence_lightning."):
            assert part.get("init_args", {}).keys() == settings, f"{part['class_path']} is not complete"
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(config))
    assert config_of("fit", f"--config={tmp_path / 'again.yaml'}") == config
    if files[-1].stem == "paper_local":
        paths = [source["init_args"]["path"] for source in config["data"]["problems"]]
        assert paths and all(path.startswith("/somewhere/train/") for path in paths)


def class_of(part: dict[str, Any]) -> type:
    module, _, name = part["class_path"].rpartition(".")
    kind: type = getattr(import_module(module), name)
    return kind


def parts(config: Any) -> Iterator[dict[str, Any]]:
    """Everything in a configuration that is named by class_path."""
    if isinstance(config, dict):
        if "class_path" in config:
            yield config
        config = list(config.values())
    if isinstance(config, list):
        for value in config:
            yield from parts(value)


def test_the_papers_values_are_those_of_the_paper() -> None:
    config = config_of("fit", f"--config={CONF / 'rence.yaml'}")
    model, data = config["model"], config["data"]
    objective = {"beta": 0.1, "alpha": 0.5, "margin": "adaptive", "tis_cap": None}
    assert model["objective"]["init_args"] == objective
    assert model["optimizer"]["init_args"]["lr"] == 1e-6
    assert model["optimizer"]["init_args"]["betas"] == [0.9, 0.999]
    assert model["optimizer"]["init_args"]["weight_decay"] == 0.01
    assert model["trust_region"]["kl_coef"] == 0.001 and config["adaptive_kl"]["target_kl"] == 0.01
    assert config["adaptive_kl"]["horizon"] == 25600
    assert (data["group_size"], data["prompts_per_iteration"], data["prompts_per_update"]) == (8, 512, 32)
    assert data["filter"]["init_args"] == {"t_hard": 0.0, "t_easy": 0.5, "t_master": 0.8, "positives": "correct"}
    assert data["max_prompt_tokens"] == 1536 and data["sampling"]["max_response_tokens"] == 6656
    assert data["sampling"]["temperature"] == 1.0 and config["evaluation"]["sampling"]["temperature"] == 0.7
    assert config["evaluation"]["repeats"] == 4 and config["evaluation"]["every"] == 5
    assert set(config["evaluation"]["benchmarks"]) == {
        "math500", "aime2024", "aime2025", "amc", "minerva", "olympiadbench"
    }  # fmt: skip
    assert config["trainer"]["max_iterations"] == 50 and config["trainer"]["gradient_clip_val"] == 1.0


def test_later_files_and_options_override_and_interpolation_follows(tmp_path: Path) -> None:
    (tmp_path / "overlay.yaml").write_text("trainer:\n  max_iterations: 7\n  run_dir: runs/of-${data.group_size}\n")
    overlay = f"--config={tmp_path / 'overlay.yaml'}"
    config = config_of("fit", ARITHMETIC, overlay, "--data.group_size=4")
    assert config["trainer"]["max_iterations"] == 7
    assert config["trainer"]["run_dir"] == "runs/of-4"
    assert config["data"]["prompts_per_iteration"] == 24, "what is not overridden stays"
    config = config_of("fit", ARITHMETIC, overlay, "--trainer.max_iterations=9")
    assert config["trainer"]["max_iterations"] == 9


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--help", ["--config arithmetic", "fit", "validate"]),
        ("fit --help", ["Number of responses per prompt, K", "in one optimizer step", "Checkpoint to resume from"]),
        ("validate --help", ["Number of responses to each problem, the k of avg@k"]),
        ("fit --data.filter.help rence_lightning.sampling.PositiveRatioFilter", ["Upper bound of rho, inclusive"]),
        ("fit --data.reward.help", ["MathReward", "the last", "CombinedReward", "--data.reward.help CLASS"]),
        ("fit --data.engine.help", ["TransformersEngine", "VLLMEngine"]),
        ("fit --trainer.callbacks.help", ["RolloutBudget", "EarlyStopping"]),
        ("fit --data.help", ["keys of data (--help explains them):", "--data.group_size", "--data.sampling.top_p"]),
        ("fit --model.objective.help", ["MultiLabelNCE", "DAPO"]),
    ],
)
def test_help_explains_commands_keys_and_classes(
    arguments: str, words: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments.split())
    text = " ".join(capfd.readouterr().out.split())
    assert end.value.code == 0
    for word in words:
        assert word in text
    assert "ContrastiveObjective" not in text, "abstract classes cannot be named"
    assert "ModelCheckpoint" not in text, "what is refused need not be offered"


def test_the_list_of_commands_the_error_and_the_dispatch_agree(capfd: pytest.CaptureFixture[str]) -> None:
    assert {*COMMANDS} == {"fit", "warmup", "validate", "plan", "export", "compare", "report"}
    for arguments in (["--help"], ["nonsense"], []):
        with pytest.raises(SystemExit):
            main(arguments)
        output = capfd.readouterr()
        assert all(name in output.out + output.err for name in COMMANDS)
    for name in COMMANDS:
        with pytest.raises(SystemExit) as end:
            main([name, "--help"])
        text = capfd.readouterr().out
        assert end.value.code == 0 and f"usage: python -m rence_lightning {name} " in text and "%%" not in text
        assert f"  python -m rence_lightning {name} " in text.partition("examples:")[2], "no example"


def test_what_warmup_does_not_read_is_said_where_an_option_gives_it(recwarn: pytest.WarningsRecorder) -> None:
    """In a file, it is there for `fit`."""
    read = [ARITHMETIC, "--data.prompts_per_update=4", "--model.optimizer=SGD", "--warmup.epochs=1"]
    assert config_of("warmup", *read) == config_of("fit", *read) and not recwarn.list
    unread = ["--trainer.max_iterations=3", "--model.optimizer.init_args.lr=1e-5", "--data.filter.t_easy=0.9"]
    config_of("warmup", *read, *unread)
    [warning] = recwarn.list
    assert "does not read trainer.max_iterations, model.optimizer.lr, data.filter; its own" in str(warning.message)


def test_version(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0 and capfd.readouterr().out == f"rence_lightning {__version__}\n"


def test_help_of_fit_is_readable(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    text = capfd.readouterr().out
    lines = text.splitlines()
    headings = [next(n for n, line in enumerate(lines) if line.startswith(f"{name}: ")) for name in SECTIONS]
    assert lines.index("options:") < headings[0] and headings == sorted(headings)
    assert "Linked arguments" not in text and known_names() in " ".join(text.split())
    assert next(n for n, line in enumerate(lines) if line.startswith("  --ckpt_path")) < headings[0]
    assert "known subclasses" not in text
    assert "list[Callback]" in text and "--trainer.callbacks.help" not in text
    assert len(text.splitlines()) < 400


@pytest.mark.parametrize("option", ["--data.template.text", "--data.template.init_args.text"])
@pytest.mark.parametrize("text", ["Solve: {problem}", "[{problem}]", "# {problem}", "{problem}", "'{problem}'"])
def test_a_text_is_taken_as_it_is_even_if_it_looks_like_yaml(option: str, text: str) -> None:
    for arguments in ([f"{option}={text}"], [option, text]):
        assert config_of("fit", ARITHMETIC, *arguments)["data"]["template"]["init_args"]["text"] == text


def test_values_of_other_types_are_still_read() -> None:
    config = config_of(
        *("fit", ARITHMETIC, "--data.filter.t_easy=0.75", "--data.template.system=null", "--data.template.chat=true"),
        *("--model.optimizer.betas=[0.5, 0.6]", "--model.lora.r", "4", "--trainer.callbacks+=ModelSummary"),
        "--evaluation.benchmarks.extra={class_path: FileProblems, init_args: {path: x.jsonl}}",
        *("--trainer.callbacks+", "{class_path: EarlyStopping, init_args: {monitor: rollouts/reward}}"),
        *("--trainer.callbacks+=Timer", "--trainer.callbacks.duration=00:01:00:00"),
    )
    assert config["data"]["filter"]["init_args"]["t_easy"] == 0.75
    assert config["data"]["template"]["init_args"]["system"] is None
    assert config["data"]["template"]["init_args"]["chat"] is True
    assert config["model"]["optimizer"]["init_args"]["betas"] == [0.5, 0.6]
    assert config["model"]["lora"]["r"] == 4
    assert config["evaluation"]["benchmarks"]["extra"]["init_args"]["path"] == "x.jsonl"
    assert {*config["evaluation"]["benchmarks"]} == {"arithmetic", "extra"}, "an option adds, and a file replaces"
    kinds = [each["class_path"].rpartition(".")[2] for each in config["trainer"]["callbacks"]]
    assert kinds == ["ModelSummary", "EarlyStopping", "Timer"]
    assert config["trainer"]["callbacks"][2]["init_args"]["duration"] == "00:01:00:00", (
        "not set in the last of the list"
    )


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (['--evaluation.benchmarks=["math500", "amc"]'], ["math500", "amc"]),
        (["--evaluation.benchmarks", "math500"], ["math500"]),
        (["--evaluation.benchmarks.math500", "math500"], ["arithmetic", "math500"]),
        (["--evaluation.benchmarks+", "math500"], ["arithmetic", "math500"]),
        (["--config", "evaluation: {benchmarks: [math500, arithmetic]}"], ["math500", "arithmetic"]),
        (["--config", "evaluation: {benchmarks: {math500: math500}}"], ["math500"]),
    ],
)
def test_benchmarks_may_be_named_alone(options: list[str], named: list[str]) -> None:
    configured = config_of("fit", ARITHMETIC)["evaluation"]["benchmarks"]
    found = config_of("fit", ARITHMETIC, *options)["evaluation"]["benchmarks"]
    assert found == {name: configured.get(name) for name in named}, "a name that has a source keeps it"


def test_a_part_of_another_class_keeps_the_settings_that_both_have() -> None:
    kept = config_of("fit", ARITHMETIC, "--model.objective.beta=0.3", "--model.objective=SoftmaxContrast")
    assert kept["model"]["objective"]["class_path"] == "rence_lightning.objectives.SoftmaxContrast"
    assert kept["model"]["objective"]["init_args"]["beta"] == 0.3
    other = config_of("fit", ARITHMETIC, "--model.objective=GRPO", "--model.objective.clip_high=0.3")
    assert "beta" not in other["model"]["objective"]["init_args"]
    assert other["model"]["objective"]["init_args"]["clip_high"] == 0.3


def test_what_is_printed_is_the_configuration(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["fit", ARITHMETIC, "--data.group_size=4", "--print_config"])
    assert end.value.code == 0
    assert yaml.safe_load(capfd.readouterr().out) == config_of("fit", ARITHMETIC, "--data.group_size=4")


def test_keys_and_defaults_are_those_of_the_parser_and_types_those_of_the_signatures() -> None:
    """All three are read from the sources, without an import, and jsonargparse reads the signatures in its own way."""

    def values(settings: dict[str, Any], section: str = "") -> Iterator[tuple[str, Any]]:
        for name, value in settings.items():
            key = f"{section}.{name}" if section else name
            yield from values(value, key) if key in groups() else [(key, value)]

    parsed = dict(values(config_of("fit", "--model.policy=x", "--data.problems=[]")))
    assert {*parsed} == {*keys()} and groups() == {*SECTIONS} | {
        *("model.trust_region", "data.sampling", "data.turns", "evaluation.sampling")
    }
    for key in keys():
        said, hint = declared()[key], key_type(key)
        if key == "model.optimizer":
            assert said.default == "lambda p: torch.optim.AdamW(p, lr=1e-06, fused=True)"
        elif not said.default:
            assert key in ("model.policy", "data.problems")
        else:
            read = float if said.type == "float" else yaml.safe_load  # which takes 2e-05 for a text
            assert read(said.default) == parsed[key], key
        for choices in (each for each in (hint, *get_args(hint)) if get_origin(each) is Literal):
            assert f"Literal{[*get_args(choices)]}" in said.type
        kind = CLASSES.get(key.rpartition(".")[0])
        assert kind is None or " ".join(said.help.split()) in " ".join(str(kind.__doc__).split())


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        (["fi"], ["fit"]),
        (["fit", "--data.sampling.t"], ["--data.sampling.temperature", "--data.sampling.top_p"]),
        (["fit", "--data.group_size", "4", "--export.which", "b"], ["best"]),
        (["validate", "--config", "hardware/gpu1_"], ["hardware/gpu1_lora"]),
    ],
)
def test_a_shell_completes_commands_keys_and_choices(
    typed: list[str], completed: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit):
        main(["--print_completion", "bash"])
    call = f"COMP_WORDS=(rence-lightning {' '.join(typed)}); COMP_CWORD={len(typed)}; $function"
    function = "function=$(complete -p rence-lightning | sed 's/.*-F //; s/ .*//')"
    program = f"{capfd.readouterr().out}\n{function}\n{call}\necho ${{COMPREPLY[@]}}"
    done = subprocess.run(["bash"], input=program, capture_output=True, text=True, check=True)
    assert done.stdout.split() == completed


def test_without_shtab_its_installation_is_named(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert "shtab is not installed; run pip install shtab" in error_of(capfd, "--print_completion", "bash")


USERS_MODULE = '''
from lightning.pytorch.callbacks import Callback
from rence_lightning.objectives import ContrastiveObjective, multi_label_nce
from rence_lightning.prompts import Problem, ProblemSource
from rence_lightning.sampling import FilterDecision, PromptFilter, Outcome
from rence_lightning.rewards import Reward, Score
from rence_lightning.rollouts import TransformersEngine

class Sharper(ContrastiveObjective):
    """Multi-label NCE at half the temperature."""

    def contrast(self, scores, groups):
        return multi_label_nce(2 * scores, groups.positive)

class Shortest(Reward):
    def score(self, responses):
        return [Score(1 / (1 + len(each.text)), len(each.text) < 20) for each in responses]

class KeepAll(PromptFilter):
    def judge(self, group):
        return FilterDecision(Outcome.KEPT, tuple(reward == max(group.rewards) for reward in group.rewards))

class Engine(TransformersEngine):
    """An engine that changes nothing."""

class Two(ProblemSource):
    def load(self):
        return [Problem("a", "12+3=?", "15"), Problem("b", "45-6=?", "39")]

class Count(Callback):
    updates = 0
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        Count.updates += 1
'''


def test_parts_of_a_users_own_module_by_class_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "users_parts.py").write_text(USERS_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    main(
        [
            *("fit", ARITHMETIC, *SMALL, f"--trainer.run_dir={tmp_path / 'run'}", "--trainer.max_iterations=1"),
            *("--model.objective=users_parts.Sharper", "--model.objective.init_args.beta=0.3"),
            *("--data.reward=users_parts.Shortest", "--data.filter=users_parts.KeepAll"),
            *("--data.engine=users_parts.Engine", "--data.problems=[{class_path: users_parts.Two}]"),
            *("--trainer.callbacks=[{class_path: users_parts.Count}]", "--evaluation.every=0"),
            "--trainer.loggers=[{class_path: lightning.pytorch.loggers.CSVLogger, init_args: "
            f"{{save_dir: {tmp_path / 'more'}}}}}]",
        ]
    )
    assert sys.modules["users_parts"].Count.updates == 2
    assert list((tmp_path / "more").rglob("metrics.csv")), "the logger of the configuration was not used"
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["model"]["objective"]["class_path"] == "users_parts.Sharper"
    assert config["model"]["objective"]["init_args"]["beta"] == 0.3


def test_one_option_exchanges_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(capture_fit(monkeypatch, ARITHMETIC)["model"].objective) is MultiLabelNCE
    changed = capture_fit(
        monkeypatch,
        ARITHMETIC,
        "--model.objective=rence_lightning.objectives.SoftmaxContrast",
        "--trainer.callbacks=[{class_path: EarlyStopping, init_args: {monitor: rollouts/reward}}]",
        "--seed_everything=5",
        "--ckpt_path=last",
    )
    assert type(changed["model"].objective) is SoftmaxContrast
    assert changed["data"].seed == 5
    assert changed["ckpt_path"] == "last"
    kinds = [type(callback).__name__ for callback in changed["trainer"].callbacks]
    assert kinds.count("EarlyStopping") == 1
    assert [kind for kind in kinds if kind != EarlyStopping.__name__] == [
        *("OldPolicySnapshot", "AdaptiveKL", "RolloutLog", "Progress", "BenchmarkEvaluation"),
        *("Checkpoint", "ExportPolicy", "Timing", "Report"),
    ]


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), 1, "lower trainer.micro_batch_tokens"),
        (Stopped(signal.SIGTERM), 128 + signal.SIGTERM, ""),
        (StarvationError("no group"), 1, "error: no group"),
    ],
)
def test_the_end_of_a_run_is_its_exit_code_although_the_errors_are_imported_late(
    error: Exception, code: int, words: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(trainer: Trainer, model: Any, datamodule: Any, ckpt_path: str | None = None) -> None:
        raise error

    monkeypatch.setattr(Trainer, "fit", fail)
    with pytest.raises(SystemExit) as end:
        main(["fit", ARITHMETIC])
    assert end.value.code == code and words in capfd.readouterr().err


@pytest.mark.parametrize("form", ["--data.reward.class_path={}", "--data.reward.class_path {}", "--data.reward={}"])
def test_a_class_may_be_named_as_in_yaml(form: str) -> None:
    options = form.format("rence_lightning.rewards.MathReward").split()
    config = config_of("fit", ARITHMETIC, *options, "--data.reward.init_args.wrong=0.2")
    assert config["data"]["reward"]["class_path"] == "rence_lightning.rewards.MathReward"
    assert config["data"]["reward"]["init_args"]["wrong"] == 0.2
