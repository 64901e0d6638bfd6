"""The check for machines with GPUs, rehearsed without one."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen3ForCausalLM

from benchmarks.gpu_check.flops import model_flops, peak_flops
from benchmarks.gpu_check.losses import Update, compare
from benchmarks.gpu_check.update import shape_config
from rence_lightning.policy import PackedRow, Policy, Segment

ROOT = Path(__file__).parent.parent.parent


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu_check", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)


def test_flops_are_those_that_torch_counts() -> None:
    config = shape_config("tiny")
    config._attn_implementation = "eager"
    policy = Policy(Qwen3ForCausalLM(config), None, packed=False)  # type: ignore[arg-type]
    prompt, response, rows = 24, 40, 3
    row = PackedRow([Segment([5] * prompt, [[6] * response])] * rows, torch.device("cpu"))
    with FlopCounterMode(display=False) as counter:
        policy(row).log_probs.sum().backward()
    # Eager attention computes all pairs of tokens, of which a causal model needs half; the rest must agree, but for
    # the gradients by rotary angles, which torch counts as a product.
    heads = config.num_attention_heads * config.head_dim
    above_the_diagonal = config.num_hidden_layers * rows * 6 * (prompt + response) ** 2 * heads
    ours = model_flops(config, prompt, response, rows) + above_the_diagonal
    assert counter.get_total_flops() == pytest.approx(ours, rel=0.02)


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


def test_a_difference_is_noticed() -> None:
    reference = Update(1.0, torch.tensor([3.0, 4.0], dtype=torch.float64))
    assert compare(reference, reference).within(0, 0)
    turned = compare(Update(1.0, torch.tensor([-4.0, 3.0], dtype=torch.float64)), reference)
    assert turned.cosine == 0 and turned.gradient == pytest.approx(2**0.5) and not turned.within(1, 1)
    assert not compare(Update(1.1, reference.gradient), reference).within(0.05, 1)
    assert not compare(Update(math.nan, reference.gradient), reference).within(9, 9)
    assert not compare(Update(1.0, reference.gradient * math.nan), reference).within(9, 9)


@pytest.mark.slow
def test_the_rehearsal_passes_on_a_cpu(tmp_path: Path) -> None:
    done = run(
        *("--cpu=true", "--parts=[machine,losses,update]", "--shape=tiny", "--prompt_tokens=32"),
        *("--response_tokens=96", "--micro_batch_tokens=1024", f"--out={tmp_path / 'out'}"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert all(part["passed"] for part in report.values()) and report.keys() == {"machine", "losses", "update"}
    assert report["losses"]["fp32 loss, difference"] < 1e-6 and 0.99 < report["losses"]["bf16 gradient, cosine"] < 1
    update = report["update"]
    assert update["tokens"] == 2 * 8 * 128 and update["grad_norm"] > 0
    assert update["tokens_per_second"] == pytest.approx(update["tokens"] / update["seconds"])


@pytest.mark.slow
def test_a_part_that_fails_fails_the_check(tmp_path: Path) -> None:
    done = run(
        "--cpu=true", "--parts=[machine,update]", "--shape=tiny", "--prompt_tokens=50000", f"--out={tmp_path / 'out'}"
    )
    assert done.returncode == 1 and "FAILED" in done.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["machine"]["passed"] and not report["update"]["passed"]
    assert "but the policy's context is 40960 tokens" in report["update"]["reason"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_check_is_refused(tmp_path: Path) -> None:
    done = run(f"--out={tmp_path / 'out'}")
    assert done.returncode == 2 and done.stderr.strip().endswith("rehearse with --cpu true")


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_check_passes_on_a_gpu(tmp_path: Path) -> None:
    done = run("--shape=qwen3-0.6b", "--groups=1", f"--out={tmp_path / 'out'}")
    assert done.returncode == 0, done.stdout + done.stderr
