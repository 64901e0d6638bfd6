"""`plan`: its figures, its verdict, and that what it suggests fits."""

import shlex
from pathlib import Path

import pytest
from command_line import CONF
from transformers import Qwen3Config

from rence_lightning.cli.main import main, run

SMALL = {"hidden_size": 1024, "intermediate_size": 3072, "num_attention_heads": 16, "head_dim": 64}


@pytest.fixture
def policy(tmp_path: Path) -> str:
    """A folder with nothing but a configuration, of 116 million parameters."""
    folder = tmp_path / "policy"
    Qwen3Config(
        num_hidden_layers=4, num_key_value_heads=8, vocab_size=65536, tie_word_embeddings=True, **SMALL
    ).save_pretrained(folder)
    return str(folder)


def options(policy: str, *more: str) -> list[str]:
    """A run on one GPU with groups of 8 x 500 tokens."""
    files = ["--config", str(CONF / "rence.yaml"), "--config", str(CONF / "hardware" / "gpu1.yaml")]
    lengths = ["--data.max_prompt_tokens", "100", "--data.sampling.max_response_tokens", "500"]
    return ["plan", *files, *lengths, "--model.policy", policy, "--trainer.micro_batch_tokens", "8192", *more]


def test_a_run_that_fits(policy: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(options(policy, "--gpu_memory", "24")) == 0
    text = capsys.readouterr().out
    assert "It fits" in text and "24.0 GB a GPU (--gpu_memory)" in text
    assert "training: a pass of 8,192 tokens" in text and "keys and values of" in text


@pytest.mark.slow
def test_each_change_that_is_suggested_makes_the_run_fit(policy: str, capsys: pytest.CaptureFixture[str]) -> None:
    memory = ["--gpu_memory", "3.2", "--trainer.micro_batch_tokens", "32768"]
    with pytest.raises(SystemExit) as end:
        main(options(policy, *memory))
    text = capsys.readouterr().out
    assert end.value.code == 1 and "It does not fit" in text
    suggested = [line.split("   (")[0].split() for line in text.splitlines() if line.startswith("  --")]
    assert len(suggested) >= 3
    assert any("--trainer.micro_batch_tokens" in each for each in suggested)
    for change in suggested:
        assert run(options(policy, *memory, *change)) == 0, shlex.join(change)
        assert "It fits" in capsys.readouterr().out


def test_a_run_on_a_cpu_is_planned_for_main_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--config", str(CONF / "arithmetic.yaml")]) == 0
    text = capsys.readouterr().out
    assert "of main memory (this machine's)" in text and "TransformersEngine" in text and "It fits" in text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--gpu_memory", "0"], "--gpu_memory is 0; it must be > 0"),
        (["--gpu_memory", "much"], "invalid float value"),
        (["--model.policy", "/no/such/folder"], "no folder '/no/such/folder'"),
        (["--trainer.micro_batch_token", "3"], "did you mean"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--config", str(CONF / "rence.yaml"), *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert expected in error and len(error.splitlines()) == 1


def test_a_folder_without_a_configuration_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--config", str(CONF / "rence.yaml"), "--model.policy", str(tmp_path)]) == 2
    error = capsys.readouterr().err.strip()
    assert "cannot read the configuration" in error and "config.json" in error and len(error.splitlines()) == 1


def test_help_explains_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["plan", "--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0 and "--gpu_memory GB" in text and "fit --help" in text
