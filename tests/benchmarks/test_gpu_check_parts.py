"""Each part of the check for machines with GPUs fails where what it checks is wrong."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.gpu_check.findings import Failed, Findings, Skipped
from benchmarks.gpu_check.parts import (
    demo,
    engine,
    kill,
    losses,
    machine,
    memory,
    packed,
    ratio,
    runner,
    sharding,
    tensor_parallel,
    update,
)
from benchmarks.gpu_check.parts import run as run_part
from benchmarks.gpu_check.settings import Settings
from benchmarks.gpu_check.shapes import shape_config
from benchmarks.gpu_check.short_run import short_run
from rence_lightning.policy import PackedRow, Policy, load_policy
from rence_lightning.rollouts import SampledPolicy, TransformersEngine
from rence_lightning.sampling.batch import IterationBatch


@pytest.fixture
def findings(tmp_path: Path) -> Findings:
    return Findings(tmp_path / "findings.json")


def settings_in(out: Path, **changes: Any) -> Settings:
    values: dict[str, Any] = {"cpu": True, "devices": 2, "shape": "tiny", "packed_tokens": (512,), "cpu_offload": False}
    return Settings(out=out, **{**values, "peak_tflops": None, "vllm": False, **changes})


def fails(findings: Findings, *words: str) -> bool:
    """Whether there is one failure for each of the words, in this order; they are taken out of the findings."""
    found, findings.failures = findings.failures, []
    assert len(found) == len(words), found
    return all(word in failure for word, failure in zip(words, found, strict=True))


# ---- losses and rows -------------------------------------------------------------------------------------------------


def test_another_gradient_is_noticed(findings: Findings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = losses.Update(1.0, torch.tensor([3.0, 4.0], dtype=torch.float64))
    turned = losses.compare(losses.Update(1.0, torch.tensor([-4.0, 3.0], dtype=torch.float64)), reference)
    assert turned.cosine == 0 and turned.gradient == pytest.approx(2**0.5) and turned.loss == 0
    real = losses.update

    def wrong(module: Any, groups: Any, device: Any, dtype: torch.dtype = torch.float32) -> losses.Update:
        found = real(module, groups, device, dtype)
        return losses.Update(found.loss, 1.1 * found.gradient) if dtype == torch.float16 else found

    monkeypatch.setattr(losses, "update", wrong)
    losses.check(settings_in(tmp_path), findings)
    assert fails(findings, "float16, gradient, relative difference")


def test_a_device_that_cannot_compute_in_a_data_type_is_reported(
    findings: Findings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = losses.update

    def missing(module: Any, groups: Any, device: Any, dtype: torch.dtype = torch.float32) -> losses.Update:
        if dtype == torch.bfloat16:
            raise RuntimeError("no kernel")
        return real(module, groups, device, dtype)

    monkeypatch.setattr(losses, "update", missing)
    losses.check(settings_in(tmp_path), findings)
    assert fails(findings, "bfloat16: RuntimeError: no kernel") and "float16, gradient, cosine" in findings.figures


def test_a_padded_row_with_another_prompt_is_noticed(findings: Findings, tmp_path: Path) -> None:
    policy = packed.make_policy(settings_in(tmp_path))
    row = packed.row(policy, 60, 8, 100)
    packed.compare(policy, row, torch.float32, "right", findings)
    packed.compare(policy, row, torch.bfloat16, "right", findings)
    assert fails(findings)
    other = packed.row(policy, 60, 8, 100)
    real = PackedRow.padded

    def mixed(self: PackedRow) -> Any:
        rows = real(self)
        rows.input_ids[1::2, 10] = rows.input_ids[::2, 10] + 1  # every other copy of a prompt has another token
        return rows

    other.padded = mixed.__get__(other)  # type: ignore[method-assign]
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        packed.compare(policy, other, dtype, "wrong", findings)
        assert fails(findings, "log-probability", "gradient")


# ---- engines ---------------------------------------------------------------------------------------------------------


class Copied(TransformersEngine):
    """An engine with a copy of the policy, which is refreshed at each push, or at the first alone."""

    def __init__(self, frozen: bool) -> None:
        super().__init__(max_num_seqs=64)
        self.frozen = frozen
        self.copy: Policy | None = None

    def sync(self, policy: SampledPolicy) -> None:
        if self.copy is None or not self.frozen:
            self.copy = load_policy("embedded:arithmetic")
            self.copy.model.load_state_dict(policy.model.state_dict())
        super().sync(self.copy)


def checksums_of(copied: Copied) -> engine.Checksums:
    assert copied.copy is not None

    class Worker:
        @staticmethod
        def get_model() -> Any:
            assert copied.copy is not None
            return copied.copy.model

    return engine.worker_checksums(Worker)


@pytest.mark.parametrize("frozen", [False, True])
def test_an_engine_that_is_not_given_new_weights_is_noticed(frozen: bool, findings: Findings) -> None:
    copied, policy = Copied(frozen), load_policy("embedded:arithmetic")
    found = engine.rounds(copied, policy, torch.float32, lambda: checksums_of(copied))
    engine.judge(found, "bfloat16", findings)
    if not frozen:
        assert fails(findings)
        return
    assert len(found["rounds"]) == engine.ROUNDS == 3
    for number in (1, 2, 3):
        assert any(f"round {number}: difference per token" in each for each in findings.failures)
        assert any(f"round {number}: weights after a push of others" in each for each in findings.failures)


def test_weights_that_do_not_survive_a_sleep_are_noticed(findings: Findings) -> None:
    copied, policy = Copied(False), load_policy("embedded:arithmetic")
    pushes = 0

    def drifting() -> engine.Checksums:
        nonlocal pushes
        pushes += 1
        return {"pushes": (pushes, 0)}

    engine.judge(engine.rounds(copied, policy, torch.float32, drifting), "float32", findings)
    assert fails(findings, *["after a sleep"] * 3)


def test_checksums_see_a_bit_and_a_place() -> None:
    def of(weight: Tensor) -> engine.Checksums:
        module = torch.nn.Module()
        module.weight = torch.nn.Parameter(weight)

        class Worker:
            get_model = staticmethod(lambda: module)

        return engine.worker_checksums(Worker)

    weight = torch.randn(50, 3, dtype=torch.bfloat16)
    bit, place = weight.clone(), weight.clone()
    bit.view(torch.int16)[7, 1] ^= 1
    place[[3, 4]] = weight[[4, 3]]
    assert of(weight) == of(weight.clone()) and of(weight) != of(bit) and of(weight) != of(place)


def test_without_vllm_its_parts_are_skipped_on_a_cpu_and_fail_on_a_gpu(findings: Findings, tmp_path: Path) -> None:
    for part in (engine, runner, tensor_parallel):
        with pytest.raises(Skipped, match="vLLM is not installed"):
            part.check(settings_in(tmp_path), findings)
        with pytest.raises(Failed, match="make gpu-check installs it"):
            part.check(settings_in(tmp_path, cpu=False), findings)


def test_tokens_may_differ_where_two_are_as_likely(findings: Findings) -> None:
    policy = load_policy("embedded:arithmetic")
    greedy = [[5, 6, 7]] * 16
    assert engine.largest_gap(policy, greedy, greedy) == 0
    assert engine.largest_gap(policy, greedy, [[5, 6], *greedy[1:]]) == float("inf")
    assert engine.largest_gap(policy, greedy, [[5, 9, 7], *greedy[1:]]) > engine.NEAR_TIE


def test_runners_that_differ_or_are_the_same_one_are_noticed(findings: Findings) -> None:
    one = {"tokens": [[5, 6, 7]] * 16, "log_probs": [[-0.1, -0.2, -0.3]] * 16, "runner": "v1"}
    runner.judge(one, {**one, "runner": "v2"}, "bfloat16", findings)
    assert fails(findings)
    runner.judge(one, one, "bfloat16", findings)
    assert fails(findings, "made no difference")
    runner.judge(one, {**one, "runner": "v2", "log_probs": [[-0.1, -0.2, -0.9]] * 16}, "bfloat16", findings)
    assert fails(findings, "log-probabilities")
    runner.judge(one, {**one, "runner": "v2", "tokens": [[5, 9, 7]] * 16}, "bfloat16", findings)
    assert fails(findings, "tokens", "log-probabilities, mean difference is nan")


def test_a_shared_engine_that_samples_something_else_is_noticed(findings: Findings) -> None:
    one = {"greedy": [[5, 6, 7]] * 16, "engine_differences": [1e-3, 2e-3]}
    tensor_parallel.judge(one, one, "bfloat16", findings)
    assert fails(findings)
    tensor_parallel.judge(one, {"greedy": [[5, 9, 7]] * 16, "engine_differences": [1e-3, 0.5]}, "bfloat16", findings)
    assert fails(findings, "an engine on both, iteration 2", "greedy tokens")


# ---- runs ------------------------------------------------------------------------------------------------------------


def test_a_sharded_run_with_another_gradient_is_noticed(findings: Findings) -> None:
    one = {"updates": [{"loss": 1.5, "grad_norm": 2.0}, {"loss": 1.4, "grad_norm": 2.1}]}
    sharding.judge(one, one, "32-true", findings)
    assert fails(findings)
    half = {"updates": [{"loss": 1.5, "grad_norm": 1.0}, {"loss": float("nan"), "grad_norm": 2.1}]}
    sharding.judge(one, half, "32-true", findings)
    assert fails(findings, "update 1: grad_norm", "update 2: loss")


@pytest.mark.slow
def test_a_ratio_that_is_not_one_is_noticed(findings: Findings, tmp_path: Path) -> None:
    """The second update's pi_old is changed by one part in a million in one response."""

    def nudge(batch: IterationBatch) -> None:
        group = batch.updates[1][0]
        group.old_log_probs[0] = group.old_log_probs[0] * (1 + 1e-6)

    found = short_run(str(tmp_path / "run"), True, 1, False, "32-true", "transformers", None, 0.0, 1, nudge)
    assert found is not None
    ratio.judge(found, "32-true", findings)
    assert fails(findings, "32-true, update 2")
    ratio.judge(found, "16-mixed", findings)
    assert fails(findings) and "16-mixed" in findings.skipped, "it ran in another precision than asked for"


def test_processes_that_outlive_a_kill_are_noticed(
    findings: Findings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run whose child has a session of its own and goes on; one that never comes to the kill; one that ends well."""
    monkeypatch.setattr(kill, "SECONDS", 1.5)
    monkeypatch.setattr(kill, "START_SECONDS", 1.0)
    killed = tmp_path / "killed.json"
    write = f"import json, time; open({str(killed)!r}, 'w').write(json.dumps({{'time': time.time()}}));"
    orphan = "import subprocess; subprocess.Popen(['sleep', '60'], start_new_session=True);"

    def judged(code: str) -> None:
        killed.unlink(missing_ok=True)
        environment = {kill.MARK: "doctored", "PATH": "/usr/bin:/bin"}
        process = subprocess.Popen([sys.executable, "-c", code], env=environment, start_new_session=True)
        try:
            kill.judge(process, killed, f"{kill.MARK}=doctored", "rank 0, update", findings)
        finally:
            kill.processes.end(f"{kill.MARK}=doctored", process.pid)
            process.wait()

    judged(write + "raise SystemExit(1)")
    assert fails(findings)
    judged(orphan + write + "raise SystemExit(1)")
    assert fails(findings, "1 processes were still running")
    judged(write)
    assert fails(findings, "exit code 0 in spite of the kill")
    judged("raise SystemExit(3)")
    assert fails(findings, "ended with exit code 3 without coming to the kill")
    judged("import time; time.sleep(60)")
    assert fails(findings, "went on for 1 s without coming to the kill")


def test_gpu_memory_that_stays_in_use_is_noticed(findings: Findings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kill.time, "monotonic", iter(range(0, 1000, 10)).__next__)
    monkeypatch.setattr(kill.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(kill, "used_memory", lambda: [10 * 2**20, 900 * 2**20])
    kill.judge_memory([10 * 2**20, 890 * 2**20], "rank 0, update", findings)
    assert fails(findings)
    kill.judge_memory([10 * 2**20, 10 * 2**20], "rank 0, update", findings)
    assert fails(findings, "GPU memory still in use")


def test_a_plan_that_promises_too_little_or_too_much_is_noticed(findings: Findings) -> None:
    memory.judge(9.5e9, 1e10, findings)
    assert fails(findings)
    memory.judge(1.2e10, 1e10, findings)
    assert fails(findings, "1.20 of the estimate")
    memory.judge(5e9, 1e10, findings)
    assert fails(findings, "0.50 of the estimate")


def test_an_update_that_is_not_finite_or_faster_than_the_peak_is_noticed(findings: Findings) -> None:
    measured = {"seconds": 0.5, "loss": 1.0, "grad_norm": 2.0, "parameters": 10, "peak_memory": 2e9}
    config = shape_config("tiny")
    update.judge(measured, config, 512, 2, 1e12, findings)
    assert fails(findings) and findings.figures["512 packed tokens: tokens/s, all devices"] == 2 * 512 / 0.5
    assert findings.figures["512 packed tokens: peak memory, GB"] == 2.0
    update.judge({**measured, "loss": float("nan")}, config, 512, 2, None, findings)
    assert fails(findings, "loss is nan")
    update.judge({**measured, "seconds": 1e-6}, config, 512, 2, 1e12, findings)
    assert fails(findings, "of the peak")


def test_a_run_with_a_missing_iteration_or_phase_is_noticed(findings: Findings) -> None:
    iteration = {**dict.fromkeys(run_part.PHASES, 1.0), "tokens": 100.0}
    run_part.judge([{**iteration, "rollouts": 9.0}, iteration, {**iteration, "rollouts": 3.0}], findings)
    assert fails(findings) and findings.figures["sampled tokens/s, in later iterations"] == 200 / 4
    assert findings.figures["rollouts, seconds in the first iteration"] == 9.0
    assert findings.figures["rollouts, seconds in a later iteration"] == 2.0
    run_part.judge([iteration, iteration], findings)
    assert fails(findings, "iterations is 2")
    del iteration["sync"]
    run_part.judge([iteration] * 3, findings)
    assert fails(findings, "sync is missing")


def test_a_demo_that_does_not_learn_is_noticed(findings: Findings) -> None:
    demo.judge([0.28, 0.5, 0.7], "vllm", findings)
    assert fails(findings)
    demo.judge([0.28, 0.5, 0.3], "vllm", findings)
    assert fails(findings, "vllm: the accuracy rose by less than 20 points")


# ---- the machine -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("installed", "visible", "expected"),
    [(8, None, 8), (8, "0,1", 2), (8, "", 0), (1, "0,1", 1), (2, "GPU-a, GPU-b", 2)],
)
def test_gpus_that_are_hidden_on_purpose_are_not_expected(installed: int, visible: str | None, expected: int) -> None:
    assert machine.expected_devices(installed, visible) == expected


def test_a_vllm_that_is_not_supported_is_noticed(
    findings: Findings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"vllm": "0.9.1"}
    monkeypatch.setattr("rence_lightning.rollouts.vllm_host.version", found.__getitem__)
    machine.check(settings_in(tmp_path, vllm=True), findings)
    assert fails(findings, "vllm 0.9.1 is too old")
    found["vllm"] = "9.9.0"
    monkeypatch.setattr(machine, "version", found.get)
    machine.check(settings_in(tmp_path, vllm=True), findings)
    assert fails(findings, "vLLM 9.9.0 was not compared")
    found["vllm"] = "0.33.0+cu130"
    machine.check(settings_in(tmp_path, vllm=True), findings)
    assert fails(findings)


@pytest.mark.parametrize(("sees", "mode", "words"), [(2, "Disabled", []), (1, "Disabled", ["torch sees 1 of 2"]),
                                                      (2, "Enabled", ["MIG is on"])])  # fmt: skip
def test_a_missing_gpu_and_mig_are_noticed(
    sees: int, mode: str, words: list[str], findings: Findings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(
        machine, "nvidia_smi", lambda field: {"index": ["0", "1"], "mig.mode.current": [mode] * 2}[field]
    )
    monkeypatch.setattr(machine, "_check_vllm", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: sees)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (79e9, 80e9))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(torch.cuda, "can_device_access_peer", lambda i, j: True)
    machine.check(settings_in(tmp_path, cpu=False), findings)
    assert fails(findings, *words)
    assert json.loads((tmp_path / "findings.json").read_text())["figures"]["MIG"] == mode
