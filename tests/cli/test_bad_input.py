"""Bad input ends with one line that names the key or file and the fix, and with exit code 2."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import ROOT, error_of

from rence_lightning.cli.config_errors import explain
from rence_lightning.cli.declared import key_hint
from rence_lightning.cli.main import main
from rence_lightning.cli.settings import Settings

ARITHMETIC = str(ROOT / "conf" / "arithmetic.yaml")


def fit(tmp_path: Path, *options: str) -> list[str]:
    return ["fit", f"--config={ARITHMETIC}", f"--trainer.run_dir={tmp_path / 'run'}", *options]


CHECKPOINT = "{class_path: lightning.pytorch.callbacks.ModelCheckpoint}"
NOWHERE = "{class_path: FileProblems, init_args: {path: nowhere.jsonl}}"


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--trainer.max_iteration=3", ["trainer.max_iteration", "did you mean trainer.max_iterations?"]),
        ("--data.group_siz=4", ["data.group_siz", "did you mean data.group_size?"]),
        ("--trainer.max_iter=3", ["there is no option --trainer.max_iter"]),  # abbreviations are not accepted
        ("--data.group_size=eight", ["data.group_size", "a whole number", "eight"]),
        ("--data.filter.init_args.t_esy=0.3", ["data.filter.t_esy", "PositiveRatioFilter", "did you mean t_easy?"]),
        ("--data.filtr.init_args.t_easy=0.3", ["data.filtr", "did you mean data.filter?"]),
        ("--max_iterations=3", ["--max_iterations", "did you mean trainer.max_iterations?"]),
        (
            "--model.objective.beta=high",
            ["model.objective.beta: MultiLabelNCE: expected a number. Got value: high"],
        ),
        ("--model.objective.init_args.margin=adaptiv", ["model.objective.margin", "'adaptive', 'constant', 'none'"]),
        ("--model.optimizer.lrr=1", ["model.optimizer.lrr", "did you mean lr?"]),
        ("--model.optimizer.lr=-1", ["model: optimizer", "Invalid learning rate: -1.0"]),
        ("--model.optimizer=torch.optim.AdamX", ["model.optimizer", "no attribute 'AdamX'", "did you mean Adam"]),
        ("--model.lr_scheduler=torch.optim.lr_scheduler.StepLR", ["model.lr_scheduler", "required: step_size"]),
        (
            "--data.filter=PositiveRatioFiltr",
            ["data.filter: ", "PositiveRatioFiltr", "did you mean PositiveRatioFilter?"],
        ),
        (
            "--data.problems=ArithmeticProblems",
            ["data.problems: expected a list. Got value: rence_lightning.prompts.ArithmeticProblems"],
        ),
        ("--data.problems=[FileProblems]", ["data.problems: FileProblems: the following arguments are required: path"]),
        ("--data.problems=[]", ["there are no problems"]),
        ("--evaluation.limit=-1", ["limit is -1"]),
        ("--seed_everything=-1", ["seed_everything", "from 0 to 2**32 - 1, got -1"]),
        (
            "--seed_everything=x",
            ["error: seed_everything: expected a whole number. Got value: x"],
        ),
        ("--model.trust_region.estimator=k9", ["model.trust_region.estimator", "k1", "k9"]),
        ("--model.objective=rence_lightning.objectives.NoSuch", ["model.objective", "has no attribute 'NoSuch'"]),
        (
            "--model.objective=rence_lightning.sampling.PromptPool",
            ["model.objective", "does not correspond to a subclass of Objective"],
        ),
        ("--model.objective=Nope", ["no such Objective: Nope (choose from ", "GRPO", "an import path"]),
        (
            "--data.filter=GRPO",
            ["data.filter: there is no such PromptFilter: GRPO (choose from ", "ZeroVarianceFilter"],
        ),
        ("--evaluation.benchmarks.extra=3", ["evaluation.benchmarks", "3"]),
        (
            "--data.reward=shutil.copy",
            ["data.reward", "--data.reward FunctionReward --data.reward.function shutil.copy"],
        ),
        ("--data.group_size=1", ["group_size is 1", "at least 2"]),
        ("--data.filter.init_args.t_easy=0.0", ["t_hard < t_easy", "t_easy 0.0"]),
        ("--data.prompts_per_update=7", ["24 is not a multiple", "24 / 7 = 3.43"]),
        ("--data.prompts_per_draw=2", ["2 x max_draws_per_iteration 10 = 20", "24"]),
        ("--data.sampling.max_response_tokens=6000", ["(32)", "(6000) need 6032", "context is 256"]),
        ("--adaptive_kl.target_kl=0", ["adaptive_kl", "must be > 0"]),
        ("--trainer.accelerator=gpu", ["accelerator gpu", "No supported gpu backend"]),
        ("--trainer.precision=8-bit", ["precision", "8-bit"]),
        ("--trainer.strategy=nonsense", ["strategy nonsense"]),
        ("--trainer.precision=bf16-true", ["trainer.precision", "bf16-mixed"]),
        ("--trainer.gradient_clip_val=-1", ["gradient_clip_val is -1", "null"]),
        ("--data.sampling.temperature=0", ["no contrast"]),
        (f"--trainer.callbacks=[{CHECKPOINT}]", ["use the section `checkpoint`"]),
        ("--ckpt_path=/nowhere", ["/nowhere is not", "'last', 'best'"]),
        ("--ckpt_path=best", ["no best checkpoint"]),
        ("--model.policy=./nofolder", ["no folder './nofolder'"]),
        ("--data.template.init_args.chat=true", ["no chat template", "chat: false"]),
        ("--evaluation.benchmarks={math50: null}", ["'math50' is unknown", "did you mean math500?"]),
        ("--evaluation.benchmarks=[{class_path: A}]", ["evaluation.benchmarks: give names, or a mapping"]),
        (
            "--data.max_prompt_tokens=3",
            ["arithmetic: prompts: all 500 are longer than 3 tokens, the limit of data.max_prompt_tokens"],
        ),
        (f"--data.problems=[{NOWHERE}]", ["nowhere.jsonl: no such file"]),
    ],
)
def test_a_wrong_option_names_itself_and_the_fix(
    option: str, words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if option == "--trainer.accelerator=gpu":
        import torch

        if torch.cuda.is_available():
            pytest.skip("this machine has a GPU")
    error = error_of(capfd, *fit(tmp_path, option))
    for word in words:
        assert word in error
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").glob("checkpoints")), "nothing was trained"


@pytest.mark.parametrize(
    ("lines", "option", "words"),
    [
        (
            ["", "RATE = 1 / 0"],
            "--data.reward=NAME.x",
            "division by zero (ZeroDivisionError in FILE, line 2: RATE = 1 / 0)",
        ),
        (["", "RATE = 1 / 0"], "--data.problems=[NAME.x]", "ZeroDivisionError in FILE, line 2: RATE = 1 / 0)"),
        (
            ["", "RATE = 1 / 0"],
            "--trainer.callbacks=[NAME.X]",
            "trainer.callbacks: division by zero (ZeroDivisionError",
        ),
        (
            ["import no_such_library"],
            "--data.reward=NAME.x",
            "No module named 'no_such_library' (ModuleNotFoundError in FILE, line 1: import no_such_library)",
        ),
        (
            ["import no_such_library"],
            "--data.reward={class_path: FunctionReward, init_args: {function: NAME.x}}",
            "No module named 'no_such_library'. Got value: NAME.x (ModuleNotFoundError in FILE, line 1: ",
        ),
        (["def x(problem)", "    return 1"], "--data.reward=NAME.x", "(SyntaxError in FILE, line 1: def x(problem))"),
        (["from pathlib import Pth"], "--data.reward=NAME.x", "(ImportError in FILE, line 1: from pathlib import Pth)"),
    ],
)
def test_an_error_while_a_module_is_imported_names_its_line(
    lines: list[str],
    option: str,
    words: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / f"own_{tmp_path.name}.py"
    file.write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    names = {"NAME": file.stem, "FILE": str(file)}
    option, words = (re.sub("NAME|FILE", lambda found: names[found[0]], text) for text in (option, words))
    assert words in error_of(capfd, *fit(tmp_path, option))


FILTER = "rence_lightning.sampling.PositiveRatioFilter"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("trainer:\n  max_iteration: 3\n", 2, ["trainer.max_iteration", "did you mean trainer.max_iterations?"]),
        ("trainerr:\n  max_iterations: 3\n", 1, ["there is no key trainerr", "did you mean trainer?"]),
        ("data:\n  group_size: eight\n", 2, ["data.group_size: expected a whole number. Got value: eight"]),
        ("data:\n  sampling:\n    topp: 1\n", 3, ["data.sampling.topp", "did you mean data.sampling.top_p?"]),
        ("data:\n  filter:\n    init_args:\n      t_esy: 1\n", 4, ["data.filter.t_esy", "did you mean t_easy?"]),
        (f"data:\n  filter:\n    class_path: {FILTER}s\n", 2, ["data.filter", "did you mean PositiveRatioFilter?"]),
        (
            f"model:\n  objective:\n    class_path: {FILTER}\n",
            2,
            ["model.objective", "does not correspond to a subclass of Objective"],
        ),
        ("data:\n  problems:\n    - class_path: FileProblems\n      init_args:\n        pth: x\n", 5, ["path?"]),
        ("data:\n  filter:\n    init_arg: {t_easy: 0.3}\n", 3, ["init_arg", "did you mean init_args?"]),
        ("trainer:\n  callbacks:\n    - class_path: EarlyStoping\n", 2, ["did you mean EarlyStopping?"]),
        ("trainer: 3\n", 1, ["trainer must hold settings"]),
        ("seed_everything: 1\nevaluation:\n", 2, ["evaluation holds nothing"]),
        ("data:\n  seed: 1\nmodel:\n  dtype: float32\ndata:\n  seed: 2\n", 5, ["data is already given on line 1"]),
        ("data: [\n", 2, ["not valid YAML"]),
        ("# nothing\n", None, ["holds no settings at all"]),
        ("checkpoint:\n  every: ${nowhere.at.all}\n", 2, ["checkpoint.every", "nowhere.at.all", "not found"]),
        ("checkpoint:\n  every: ${oc.env:NO_SUCH_VARIABLE}\n", 2, ["checkpoint.every", "'NO_SUCH_VARIABLE' not found"]),
        (
            "checkpoint:\n  every: ${data.group_size\n",
            2,
            ["checkpoint.every", "no viable alternative", "${data.group_size"],
        ),
        (
            "checkpoint:\n  every: ${model.policy}\n",
            2,
            ["checkpoint.every: expected a whole number. Got value: embedded:arithmetic"],
        ),
    ],
)
def test_a_wrong_file_names_the_line_and_the_key(
    text: str, line: int | None, words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(text)
    error = error_of(capfd, *fit(tmp_path, f"--config={overlay}"))
    assert error.startswith(f"error: {overlay}" + (f", line {line}: " if line is not None else ": "))
    for word in words:
        assert word in error


def test_a_key_required_and_set_to_null(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "overlay.yaml").write_text("model:\n  policy: null\n")
    error = error_of(capfd, *fit(tmp_path, f"--config={tmp_path / 'overlay.yaml'}"))
    assert error.startswith("error: missing: model.policy ")


def test_an_option_hides_the_file_that_it_overrides(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "overlay.yaml").write_text("data:\n  group_size: 4\n")
    error = error_of(capfd, *fit(tmp_path, f"--config={tmp_path / 'overlay.yaml'}", "--data.group_size=x"))
    assert error == "error: data.group_size: expected a whole number. Got value: x"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["name a command", "fit, warmup, validate, plan, export, compare, report", "--config"]),
        (["fitt"], ["no command 'fitt'", "did you mean fit?", "fit, warmup, validate, plan, export, compare, report"]),
        (["fit"], ["missing: model.policy, data.problems", "--config arithmetic"]),
        (["--data.group_size=2", "fit"], ["--data.group_size=2", "options go after the command"]),
        ([f"--config={ARITHMETIC}", "fit"], ["--config", "options go after the command"]),
        (["fit", ARITHMETIC], ["unrecognized", f"did you mean --config={ARITHMETIC}?"]),
        (["fit", "--config"], ["--config", "expected one argument"]),
        (["fit", "--config=nowhere.yaml"], ["there is no file nowhere.yaml"]),
    ],
)
def test_a_wrong_command_says_what_is_missing(
    arguments: list[str], words: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    error = error_of(capfd, *arguments)
    for word in words:
        assert word in error


def test_a_wrong_value_in_a_part_of_an_overlay_points_at_the_overlay(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wrong.yaml").write_text("model:\n  objective:\n    init_args:\n      beta: high\n")
    error = error_of(capfd, *fit(tmp_path, f"--config={tmp_path / 'wrong.yaml'}", "--model.objective.alpha=0.2"))
    assert error.startswith(f"error: {tmp_path / 'wrong.yaml'}, line 4: model.objective.beta: ")
    error = error_of(capfd, *fit(tmp_path, "--evaluation.benchmarks.extra=[1]"))
    assert error.startswith("error: evaluation.benchmarks: "), "an option does not point at the file with the part"


ENGINES = """
from collections.abc import Iterator
from rence_lightning.rollouts import Request, SampledPolicy, SamplingStep

class Empty:
    def generate(self, requests, cancelled=()): ...

class Short:
    def sync(self, policy): ...
    def generate(self, requests): ...
    def release(self): ...

class Wrong:
    def sync(self, policy: SampledPolicy) -> None: ...
    def generate(self, requests: list[Request], cancelled: list[int] = []) -> Iterator[SamplingStep]: ...
    def release(self) -> None: ...
"""


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ("Empty", "it lacks sync, release"),
        ("Short", "the parameters or types of sync, generate, release differ, or are not written"),
        ("Wrong", "the parameters or types of generate differ, or are not written"),
    ],
)
def test_the_message_for_an_incomplete_engine_names_the_missing_methods(
    engine: str, words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "users_engines.py").write_text(ENGINES)
    monkeypatch.syspath_prepend(tmp_path)
    error = error_of(capfd, *fit(tmp_path, f"--data.engine=users_engines.{engine}"))
    assert "data.engine" in error and words in error


def test_long_prompts_are_dropped_and_counted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = [{"problem": "12+3=?", "answer": "15"}, {"problem": "12+3+4+5+6+7=?", "answer": "37"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = f"[{{class_path: FileProblems, init_args: {{path: {tmp_path / 'rows.jsonl'}}}}}]"
    options = ("--data.max_prompt_tokens=10", "--trainer.max_iterations=0", "--evaluation.every=0")
    main(fit(tmp_path, f"--data.problems={source}", *options, "--evaluation.benchmarks=null"))
    output = capfd.readouterr().out
    assert (
        "1 training prompts are longer than 10 tokens, the limit of data.max_prompt_tokens or what the context leaves"
        in output
    )


def test_an_unwritable_run_directory(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    for wanted, words in {
        "/proc/nothing/here": "trainer.run_dir: cannot create",
        str(tmp_path / "file"): "is a file; name a folder",
        str(tmp_path / "file" / "run"): "trainer.run_dir: cannot create",
    }.items():
        assert words in error_of(capfd, "fit", f"--config={ARITHMETIC}", f"--trainer.run_dir={wanted}")


def test_validate_without_benchmarks_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["validate", f"--config={ARITHMETIC}", f"--trainer.run_dir={tmp_path / 'run'}"]
    assert "name one under evaluation.benchmarks" in error_of(capfd, *arguments, "--evaluation.benchmarks=null")


def test_the_whole_process_ends_with_one_line() -> None:
    command = [sys.executable, "-m", "rence_lightning", "fit", f"--config={ARITHMETIC}", "--data.group_siz=1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: there is no option --data.group_siz (did you mean data.group_size?)\n"


def test_a_page_of_alternatives_becomes_a_line() -> None:
    message = (
        'Parser key "model.objective":\n  Does not validate against any of the Union subtypes\n  Subtypes: [...]\n'
        "  Errors:\n    - Problem with given class_path 'a.B':\n        module 'a' has no attribute 'B'\n"
        "    - Expected a <class 'NoneType'>\n  Given value type: <class 'str'>\n  Given value: a.B\n"
    )
    assert explain(message, Settings([])) == "model.objective: module 'a' has no attribute 'B'"


def test_the_last_file_wins_in_naming_too(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("data:\n  group_size: 4\n  filter:\n    init_args: {t_easy: 1}\n")
    second.write_text("data.group_size: 8\n")
    settings = Settings(["-c", str(first), f"--config={second}", "--trainer.devices=1"])
    assert settings.where("data.group_size") == f"{second}, line 1: "
    assert settings.where("data.filter.t_easy") == f"{first}, line 4: "
    assert settings.where("data.filter.t_hard") == f"{first}, line 3: ", "the nearest setting around it"
    assert settings.where("trainer.devices") == ""


def test_words_that_are_unknown_are_kept() -> None:
    assert explain("Something\n  new is wrong", Settings([])) == "Something; new is wrong"


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("data.group_siz", "data.group_size"),
        ("dta.group_size", "data.group_size"),
        ("data.samplin.top_p", "data.sampling.top_p"),
        ("data.sampling.topp", "data.sampling.top_p"),
        ("group_size", "data.group_size"),
        ("data.filtr.init_args.t_easy", "data.filter"),
        ("data.foo", None),  # a common section alone does not make keys similar
        ("verbose", None),
    ],
)
def test_the_nearest_key_is_in_the_same_section_or_in_a_similar_one(key: str, near: str | None) -> None:
    assert key_hint(key) == (f" (did you mean {near}?)" if near else "")
