"""Bad input ends with one line that names the key or file and the mend, and with exit code 2."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rence_lightning.cli import main, one_line

ROOT = Path(__file__).parent.parent
ARITHMETIC = str(ROOT / "conf" / "arithmetic.yaml")


@pytest.fixture(autouse=True)
def no_arguments_of_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["rence_lightning"])


def error_of(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a command ends with."""
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    output = capfd.readouterr()
    assert end.value.code == 2, output
    errors = [line for line in output.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in output.err, output.err
    assert output.err.rstrip().endswith(errors[0]), "the error must be one line, and the last"
    assert len(errors[0]) < 500, f"too long to read: {errors[0]}"
    return errors[0]


def fit(tmp_path: Path, *options: str) -> list[str]:
    return ["fit", f"--config={ARITHMETIC}", f"--trainer.run_dir={tmp_path / 'run'}", *options]


CHECKPOINT = "{class_path: lightning.pytorch.callbacks.ModelCheckpoint}"
NOWHERE = "{class_path: FileProblems, init_args: {path: nowhere.jsonl}}"


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--trainer.max_iteration=3", ["trainer.max_iteration", "did you mean trainer.max_iterations?"]),
        ("--data.group_siz=4", ["data.group_siz", "did you mean data.group_size?"]),
        ("--trainer.max_iter=3", ["--trainer.max_iter"]),  # an abbreviation is not accepted for the key
        ("--data.group_size=eight", ["data.group_size", "int", "eight"]),
        ("--data.filter.init_args.t_esy=0.3", ["t_esy"]),
        ("--model.trust_region.estimator=k9", ["model.trust_region.estimator", "k1", "k9"]),
        ("--model.objective=rence_lightning.objectives.NoSuch", ["model.objective", "has no attribute 'NoSuch'"]),
        ("--model.objective=rence_lightning.prompts.PromptPool", ["model.objective", "not correspond to a subclass"]),
        ("--data.group_size=1", ["group_size is 1", "at least 2"]),
        ("--data.filter.init_args.t_easy=0.0", ["t_hard < t_easy", "t_easy 0.0"]),
        ("--data.prompts_per_update=7", ["24 is not a multiple", "24 / 7 = 3.43"]),
        ("--data.prompts_per_draw=2", ["2 x max_draws_per_iteration 10 = 20", "24"]),
        ("--data.sampling.max_response_tokens=6000", ["32 + ", "6000 = 6032", "context is 256"]),
        ("--evaluation.sampling.max_response_tokens=6000", ["evaluation", "6032", "256"]),
        ("--data.sampling.temperature=-1", ["temperature is -1"]),
        ("--adaptive_kl.target_kl=0", ["adaptive_kl", "must be > 0"]),
        ("--model.trust_region.kl_coef=-1", ["kl_coef is -1"]),
        ("--trainer.accelerator=gpu", ["accelerator gpu", "No supported gpu backend"]),
        ("--trainer.precision=8-bit", ["precision", "8-bit"]),
        ("--trainer.strategy=nonsense", ["strategy nonsense"]),
        ("--trainer.devices=0", ["devices"]),
        ("--trainer.precision=bf16-true", ["trainer.precision", "bf16-mixed"]),
        ("--trainer.gradient_clip_val=-1", ["gradient_clip_val is -1", "null"]),
        ("--data.sampling.temperature=0", ["no contrast"]),
        (f"--trainer.callbacks=[{CHECKPOINT}]", ["use the key 'checkpoint'"]),
        ("--ckpt_path=/nowhere", ["/nowhere is not", "'last', 'best'"]),
        ("--ckpt_path=best", ["no best checkpoint"]),
        ("--model.policy=./nofolder", ["no folder './nofolder'"]),
        ("--data.template.init_args.chat=true", ["no chat template", "chat: false"]),
        ("--evaluation.benchmarks={math50: null}", ["'math50' is unknown", "did you mean math500?"]),
        ("--data.max_prompt_tokens=3", ["all 2000 are longer than max_prompt_tokens 3"]),
        (f"--data.problems=[{NOWHERE}]", ["nowhere.jsonl: no such file"]),
    ],
)
def test_a_wrong_option_names_itself_and_the_mend(
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
    ("text", "words"),
    [
        ("trainer:\n  max_iteration: 3\n", ["trainer.max_iteration", "did you mean trainer.max_iterations?"]),
        ("data:\n  group_size: eight\n", ["data.group_size", "eight"]),
        ("data: [\n", ["parsing config"]),
        ("checkpoint:\n  every: ${nowhere.at.all}\n", ["nowhere"]),
    ],
)
def test_a_wrong_file_names_the_key(
    text: str, words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "overlay.yaml").write_text(text)
    error = error_of(capfd, *fit(tmp_path, f"--config={tmp_path / 'overlay.yaml'}"))
    for word in words:
        assert word in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["subcommand", "fit", "validate"]),
        (["fitt"], ["invalid choice: 'fitt'", "fit", "validate"]),
        (["fit"], ["required", "model.policy", "data.problems"]),
        (["fit", "--config=nowhere.yaml"], ["does not exist", "nowhere.yaml"]),
    ],
)
def test_a_wrong_command_says_what_is_missing(
    arguments: list[str], words: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    error = error_of(capfd, *arguments)
    for word in words:
        assert word in error


def test_a_row_without_an_answer_is_named_by_file_and_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = [{"problem": "1+1=?", "answer": "2"}, {"problem": "1+2=?"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = f"[{{class_path: FileProblems, init_args: {{path: {tmp_path / 'rows.jsonl'}}}}}]"
    error = error_of(capfd, *fit(tmp_path, f"--data.problems={source}"))
    assert f"{tmp_path / 'rows.jsonl'}, line 2" in error and "answer" in error


def test_long_prompts_are_dropped_and_counted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = [{"problem": "12+3=?", "answer": "15"}, {"problem": "12+3+4+5+6+7=?", "answer": "37"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = f"[{{class_path: FileProblems, init_args: {{path: {tmp_path / 'rows.jsonl'}}}}}]"
    options = ("--data.max_prompt_tokens=10", "--trainer.max_iterations=0", "--evaluation.every=0")
    main(fit(tmp_path, f"--data.problems={source}", *options, "--evaluation.benchmarks=null"))
    output = capfd.readouterr().out
    assert "1 training prompts are longer than 10 tokens (data.max_prompt_tokens) and were dropped" in output


def test_an_unwritable_run_directory(capfd: pytest.CaptureFixture[str]) -> None:
    error = error_of(capfd, "fit", f"--config={ARITHMETIC}", "--trainer.run_dir=/proc/nothing/here")
    assert "trainer.run_dir: cannot create" in error


def test_validate_without_benchmarks_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["validate", f"--config={ARITHMETIC}", f"--trainer.run_dir={tmp_path / 'run'}"]
    assert "name a benchmark" in error_of(capfd, *arguments, "--evaluation.benchmarks=null")


def test_the_whole_process_ends_with_one_line() -> None:
    command = [sys.executable, "-m", "rence_lightning", "fit", f"--config={ARITHMETIC}", "--data.group_size=1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "error: data: group_size is 1, but a contrast needs at least 2 responses a prompt"
    )


def test_a_page_of_alternatives_becomes_a_line() -> None:
    message = (
        'Parser key "model.objective":\n  Does not validate against any of the Union subtypes\n  Subtypes: [...]\n'
        "  Errors:\n    - Problem with given class_path 'a.B':\n        module 'a' has no attribute 'B'\n"
        "    - Expected a <class 'NoneType'>\n  Given value type: <class 'str'>\n  Given value: a.B\n"
    )
    assert one_line(message) == (
        "Parser key \"model.objective\": Problem with given class_path 'a.B': module 'a' has no attribute 'B'"
    )
