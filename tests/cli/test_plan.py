"""`plan`: what it prints, that its suggestions help, and that the overlays for GPUs fit what their headers claim."""

import re
from contextlib import suppress
from pathlib import Path

import pytest
from command_line import CONF, config_of
from transformers import Qwen3Config

from benchmarks.qwen3 import qwen3
from rence_lightning.cli.commands.memory import Memory, total
from rence_lightning.cli.main import main, run

GPU_OVERLAYS = sorted(path for path in (CONF / "hardware").glob("*.yaml") if path.stem != "cpu")


def options(folder: Path, *more: str) -> list[str]:
    """A run of 116 million parameters on one GPU, with groups of 8 x 500 tokens; the folder has a config.json alone."""
    sizes = {"hidden_size": 1024, "intermediate_size": 3072, "num_attention_heads": 16, "num_key_value_heads": 8}
    Qwen3Config(num_hidden_layers=4, head_dim=64, vocab_size=65536, tie_word_embeddings=True, **sizes).save_pretrained(
        folder
    )
    files = ["--config", str(CONF / "rence.yaml"), "--config", str(CONF / "hardware" / "gpu1.yaml")]
    lengths = ["--data.max_prompt_tokens", "100", "--data.sampling.max_response_tokens", "500"]
    return ["plan", *files, *lengths, "--model.policy", str(folder), "--trainer.micro_batch_tokens", "8192", *more]


def test_a_run_that_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(options(tmp_path, "--gpu_memory", "24")) == 0
    text = capsys.readouterr().out
    assert "It fits" in text and "1 x 24.0 GB (--gpu_memory)" in text
    assert "512 / 32 prompts = 16 updates; x 50 iterations = 800 updates" in text
    assert "the longest group: 100 + 8 x 500 = 4,100 tokens" in text
    assert re.search(r"parameters +0\.\d\d +4 x 11\d\.\d M\n", text) and "keys and values" in text


def lines_of(text: str) -> list[str]:
    """The options that are suggested, those of a line together."""
    return [line.strip() for line in text.splitlines() if line.startswith("  --")]


def totals(text: str) -> list[float]:
    """The totals in GB, of training and of sampling."""
    return [float(number) for number in re.findall(r"\n  total +([\d.]+)", text)]


def test_what_is_suggested_lowers_the_need_until_the_run_fits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    too_large = options(tmp_path, "--gpu_memory", "3.2", "--trainer.micro_batch_tokens", "32768")
    too_large += ["--model.gradient_checkpointing", "false"]
    with pytest.raises(SystemExit) as end:
        main(too_large)
    text = capsys.readouterr().out
    assert end.value.code == 1 and "It does not fit" in text and "training is too large" in text
    needed, suggested = totals(text)[0], lines_of(text)
    names = {option for change in suggested for option in change.split() if option.startswith("--")}
    assert len(suggested) == 5 and {"--trainer.micro_batch_tokens", "--trainer.devices", "--model.lora.r"} <= names
    for change in suggested:
        with suppress(SystemExit):
            main([*too_large, *change.split()])
        assert totals(capsys.readouterr().out)[0] < needed, change
    for _ in range(8):
        too_large += suggested[0].split()
        try:
            main(too_large)
            break
        except SystemExit:
            suggested = lines_of(capsys.readouterr().out)
    assert "It fits" in capsys.readouterr().out, too_large


@pytest.mark.parametrize("engine", ["VLLMEngine", "TransformersEngine"])
def test_an_engine_is_made_to_fit(engine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The share of the GPU that vLLM takes is too large, and so are the keys and values of 9,999 sequences."""
    own = {"VLLMEngine": "gpu_memory_utilization=0.9", "TransformersEngine": "max_num_seqs=9999"}[engine]
    arguments = options(tmp_path, "--gpu_memory", "8", "--data.engine", engine, f"--data.engine.{own}")
    with pytest.raises(SystemExit):
        main(arguments)
    text = capsys.readouterr().out
    assert "the engine beside the trainer is too large" in text
    (suggested,) = lines_of(text)
    assert suggested.split()[0] == f"--data.engine.{own.partition('=')[0]}"
    main([*arguments, *suggested.split()])
    assert "It fits" in capsys.readouterr().out


def test_a_run_on_a_cpu_is_planned_for_main_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--config", str(CONF / "arithmetic.yaml")]) == 0
    text = capsys.readouterr().out
    assert "(this machine's)" in text and "TransformersEngine" in text and "It fits" in text


@pytest.mark.parametrize(
    ("engine", "said"), [("TransformersEngine", False), ("VLLMEngine", False), ("plan_engines.Own", True)]
)
def test_an_engine_whose_memory_is_not_known_is_named(
    engine: str, said: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plan_engines.py").write_text(
        "from rence_lightning.rollouts import TransformersEngine\n\nclass Own(TransformersEngine): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    run(options(tmp_path, "--gpu_memory", "80", "--data.engine", engine))
    text = capsys.readouterr().out
    assert f"sampling: {engine.rpartition('.')[2]}" in text
    assert ("Own is not known here: it is counted as if it were TransformersEngine" in text) == said


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--gpu_memory", "0"], "--gpu_memory is 0; it must be > 0"),
        (["--gpu_memory", "much"], "invalid float value"),
        (["--model.policy", "/no/such/folder"], "no folder '/no/such/folder'"),
        (["--model.policy", "EMPTY"], "cannot read the configuration"),
        (["--model.policy", "no/such-model"], "cannot read the configuration of 'no/such-model'"),
        (["--trainer.micro_batch_token", "3"], "did you mean"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    arguments = [str(tmp_path) if argument == "EMPTY" else argument for argument in arguments]
    assert run(["plan", "--config", str(CONF / "rence.yaml"), *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert expected in error and len(error.splitlines()) == 1


@pytest.mark.parametrize("overlay", GPU_OVERLAYS, ids=lambda path: path.stem)
def test_an_overlay_fits_what_its_header_claims(overlay: Path, tmp_path: Path) -> None:
    claims = re.findall(r"Qwen3-([\d.]+B) on (\d+) GB", next(re.finditer("# fits: .*", overlay.read_text())).group())
    config = config_of("fit", "--config", str(CONF / "rence.yaml"), "--config", str(overlay))
    assert config["old_policy"]["max_mismatch"] == 0.05
    assert config["model"]["optimizer"]["init_args"]["fused"] is True
    assert claims
    for size, gigabytes in claims:
        qwen3(size).save_pretrained(tmp_path / size)
        config["model"]["policy"] = str(tmp_path / size)
        memory = Memory(config, 1e9 * float(gigabytes))
        assert total(memory.training()) <= memory.usable, memory.training()
        assert total(memory.sampling()[0]) <= memory.usable and memory.sampling()[1] >= 8, (
            memory.sampling()
        )  # a whole group
