"""The vLLM engine as on a GPU, against a stand-in: its settings, the order of its calls, and what follows when one
raises."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contracts import vllm_contract as contract
from engine_streams import requests
from recording_vllm import Recording, stand_in
from tiny_models import tiny_policy

from rence_lightning import distributed
from rence_lightning.errors import EngineError, UserError, explanation
from rence_lightning.policy import Policy
from rence_lightning.rollouts import Sampling, VLLMEngine
from rence_lightning.rollouts.vllm import _sums_of
from rence_lightning.rollouts.vllm_host import config_folder

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "dtype": "float32",
    "runner": "generate",
    "load_format": "dummy",
    "skip_tokenizer_init": True,
    "max_num_seqs": 8,
    "tensor_parallel_size": 1,
    "logprobs_mode": "processed_logprobs",
    "enforce_eager": False,
    "gpu_memory_utilization": 0.5,
    "enable_sleep_mode": True,
    "disable_log_stats": False,
}
"""Those of a float32 policy on a GPU, with `max_num_seqs=8`."""


@pytest.fixture
def vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recording]:
    monkeypatch.setenv("RENCE_CACHE", str(tmp_path))
    for name in contract.ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    with stand_in() as recording:
        yield recording


def engine(**settings: Any) -> VLLMEngine:
    return VLLMEngine(**{"max_num_seqs": 8, **settings})


def log_prob(engine: VLLMEngine, prompts: int = 3, cancelled: Any = ()) -> float:
    """The log-probability of all tokens that are sampled, which tells the weights they come from."""
    stream = requests([[5, 6]] * prompts, 4, Sampling(max_response_tokens=2), range(prompts))
    steps = list(engine.generate(stream, cancelled))
    groups = [group for step in steps for group in step.finished]
    (value,) = {value for group in groups for rollout in group.rollouts for value in rollout.log_probs}
    return value


def expected(policy: Policy) -> float:
    weights = policy.weights(torch.device("cpu"), torch.float32)
    return -float(sum(weight.double().abs().sum() for _, weight in weights))


def move(policy: Policy) -> None:
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(0.01)


@pytest.mark.parametrize(
    ("given", "changed"),
    [
        ({}, {}),
        ({"dtype": "bfloat16"}, {"dtype": "bfloat16", "hf_overrides": {"head_dtype": "float32"}}),
        ({"dtype": "float16"}, {"dtype": "float16", "hf_overrides": {"head_dtype": "float32"}}),
        (
            {"dtype": "float16", "settings": {"hf_overrides": {"head_dtype": "model", "rope_theta": 1.0}}},
            {"dtype": "float16", "hf_overrides": {"head_dtype": "model", "rope_theta": 1.0}},
        ),
        ({"sleep": False, "enforce_eager": True}, {"enable_sleep_mode": False, "enforce_eager": True}),
        ({"gpu_memory_utilization": 0.3, "max_model_len": 99}, {"gpu_memory_utilization": 0.3, "max_model_len": 99}),
        ({"kv_cache_memory_bytes": 2**30}, {"kv_cache_memory_bytes": 2**30}),
        ({"settings": {"sleep_mode_offload_cudagraph": True}}, {"sleep_mode_offload_cudagraph": True}),
    ],
)
def test_settings_on_a_gpu(given: dict[str, Any], changed: dict[str, Any], vllm: Recording) -> None:
    engine(**given).sync(tiny_policy())
    (_, settings), *_ = vllm.calls
    folder = Path(settings.pop("model"))
    assert settings == {**SETTINGS, **changed}
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["Qwen3ForCausalLM"]
    assert vllm.environment["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert vllm.environment["VLLM_LOGGING_LEVEL"] == "CRITICAL"


def test_three_iterations_call_vllm_in_its_order_and_sample_from_the_newest_weights(vllm: Recording) -> None:
    rollouts, policy = engine(), tiny_policy()
    for _ in range(3):
        move(policy)
        rollouts.sync(policy)
        assert log_prob(rollouts) == pytest.approx(expected(policy), rel=1e-6)
        rollouts.release()
    sampling = ["add_request"] * 2 + ["step", "add_request", "step", "step"]
    push, end = ["collective_rpc", "reset_prefix_cache", "apply_model"], ["sleep"]
    woken = ["wake_up", "collective_rpc", "wake_up", "reset_prefix_cache", "apply_model"]
    assert vllm.names == ["LLM", *push, *sampling, *end, *(woken + sampling + end) * 2]
    assert [given for name, given in vllm.calls if name == "wake_up"] == [
        {"tags": ["weights"]},
        {"tags": ["kv_cache"]},
    ] * 2
    assert all(given == {"level": 2} for name, given in vllm.calls if name == "sleep")


def test_a_configuration_has_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM's compile cache goes by the folder: a new one at each start would compile each time."""
    monkeypatch.setenv("RENCE_CACHE", str(tmp_path))
    model = tiny_policy("llama-tied").model
    folder = config_folder(model)
    assert folder == config_folder(model) and [file.name for file in folder.iterdir()] == ["config.json"]
    assert folder != config_folder(tiny_policy("qwen3-tied").model)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RENCE_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="RENCE_CACHE"):
        config_folder(model)


def test_without_sleep_the_engine_stays_awake(vllm: Recording) -> None:
    rollouts, policy = engine(sleep=False), tiny_policy()
    for _ in range(2):
        rollouts.sync(policy)
        rollouts.release()
    assert vllm.names == ["LLM", *["collective_rpc", "reset_prefix_cache", "apply_model"] * 2]


def test_each_response_is_asked_for_as_flat_numbers(vllm: Recording) -> None:
    rollouts = engine()
    rollouts.sync(tiny_policy())
    log_prob(rollouts, prompts=1)
    (given,) = vllm.sampling
    kind = given.pop("output_kind")
    assert kind.name == "FINAL_ONLY"
    assert given == {
        "n": 4,
        "temperature": 1.0,
        "top_p": 1.0,
        "max_tokens": 2,
        "seed": 0,
        "logprobs": 0,
        "flat_logprobs": True,
        "stop_token_ids": [1],
        "ignore_eos": True,
        "detokenize": False,
    }


def test_the_random_state_of_the_trainer_is_restored(vllm: Recording) -> None:
    def state() -> tuple[Any, ...]:
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    rollouts, policy = engine(), tiny_policy()
    before = state()
    rollouts.sync(policy)
    assert state() == before
    log_prob(rollouts)
    rollouts.release()
    rollouts.sync(policy)
    assert state() == before


def test_the_contract_names_what_is_used_and_nothing_else(vllm: Recording) -> None:
    """The stand-in refuses other names; here, none of the contract is left over but what needs several ranks."""
    rollouts = engine(dtype="float16", max_model_len=64, kv_cache_memory_bytes=2**20)
    rollouts.sync(tiny_policy())
    cancelled: set[int] = set()
    for _ in rollouts.generate(requests([[5, 6]] * 4, 2, Sampling(max_response_tokens=2), range(4)), cancelled):
        cancelled |= {2, 3}
    rollouts.release()
    rollouts.sync(tiny_policy())
    rollouts.figures()
    rollouts.close()
    used = set(vllm.calls[0][1])
    assert used - {"model"} == set(contract.SETTINGS) - {"distributed_executor_backend", "enable_chunked_prefill"}
    counted = {"get_num_unfinished_requests"}  # is not recorded
    assert set(vllm.names) == {"LLM", *contract.METHODS, *contract.QUEUE_METHODS, "shutdown"} - counted
    assert {name for given in vllm.sampling for name in given} == set(contract.SAMPLING_FIELDS)


# ---- what follows when a call raises ---------------------------------------------------------------------------------

ERRORS = [
    ValueError("the cause\nand more"),
    RuntimeError("the cause"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB"),
    RuntimeError("CUDA Error: out of memory at cumem_allocator.cpp"),
    AssertionError(),
]
CALLS = [
    "LLM",
    "collective_rpc",
    "reset_prefix_cache",
    "apply_model",
    "add_request",
    "step",
    "abort_request",
    "sleep",
    "wake_up",
    "wake_up for keys and values",
]


def fails_at(call: str, error: Exception, vllm: Recording) -> Callable[[str], None]:
    def fail(name: str) -> None:
        if name == call or (call == CALLS[-1] and name == "wake_up" and vllm.calls[-1][1]["tags"] == ["kv_cache"]):
            raise error

    return fail


@pytest.mark.parametrize(("call", "error"), [*product(CALLS, ERRORS[:1]), *product(CALLS[:2], ERRORS[1:])])
def test_an_error_is_one_line_and_ends_the_use_of_the_engine(call: str, error: Exception, vllm: Recording) -> None:
    rollouts, policy = engine(), tiny_policy()
    if call != "LLM":
        rollouts.sync(policy)
    if call in CALLS[-2:]:
        rollouts.release()
    vllm.fail = fails_at(call, error, vllm)
    with pytest.raises((UserError, EngineError)) as caught:
        if call in ("LLM", "collective_rpc", "reset_prefix_cache", "apply_model", *CALLS[-2:]):
            rollouts.sync(policy)
        elif call == "sleep":
            rollouts.release()
        else:
            cancelled: set[int] = set()
            for _ in rollouts.generate(requests([[5, 6]] * 4, 2, Sampling(max_response_tokens=2), range(4)), cancelled):
                cancelled |= {2, 3}
    text = explanation(caught.value)
    assert "\n" not in text and text.startswith("error: ") and "vLLM" in text
    assert ("gpu_memory_utilization" in text) == ("out of memory" in str(error))
    assert str(error).partition("\n")[0] in text and (str(error) or "AssertionError" in text)
    vllm.fail = lambda name: None
    calls = len(vllm.calls)
    with pytest.raises(RuntimeError, match="no weights"):
        next(rollouts.generate([]))
    with pytest.raises(EngineError, match="start the run again"):
        rollouts.sync(policy)
    rollouts.release()
    assert len(vllm.calls) == calls, "an engine in an unknown state is left alone"


def test_a_setting_that_vllm_refuses_is_said_without_the_list_of_all(vllm: Recording) -> None:
    """pydantic's message begins with a line that says nothing, and ends with all values."""

    class ValidationError(ValueError):
        def errors(self) -> list[dict[str, str]]:
            return [{"msg": "Value error, max_model_len is too large"}]

    vllm.fail = fails_at("LLM", ValidationError("1 validation error for ModelConfig\n  Value error, ..."), vllm)
    with pytest.raises(UserError, match=r"^engine: vLLM does not start: Value error, max_model_len is too large$"):
        engine().sync(tiny_policy())


@pytest.mark.parametrize(("call", "says"), [("wake_up", "still asleep"), ("reset_prefix_cache", "still running")])
def test_an_answer_of_no_is_an_error(call: str, says: str, vllm: Recording) -> None:
    rollouts, policy = engine(), tiny_policy()
    rollouts.sync(policy)
    rollouts.release()
    vllm.answers[call] = False
    with pytest.raises(EngineError, match=says):
        rollouts.sync(policy)
    with pytest.raises(RuntimeError, match="no weights"):
        next(rollouts.generate([]))


def test_weights_that_vllm_leaves_as_they_are_are_an_error(vllm: Recording) -> None:
    vllm.left_out = {"model.layers.1.mlp.gate_up_proj.weight", "lm_head.weight"}
    rollouts = engine()
    with pytest.raises(EngineError, match=r"2 weights .*: lm_head.weight, model.layers.1.mlp.gate_up_proj.weight;"):
        rollouts.sync(tiny_policy())
    with pytest.raises(RuntimeError, match="no weights"):
        next(rollouts.generate([]))


def test_an_engine_that_is_one_iteration_behind_is_an_error(vllm: Recording) -> None:
    """Its responses would be plausible: the policy has moved by less than the engine's rounding."""
    vllm.behind = True
    rollouts, policy = engine(dtype="bfloat16"), tiny_policy()
    rollouts.sync(policy)  # of a first push, there is nothing to be behind
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.mul_(1 + 2**-9)  # the spacing of bfloat16 is 2**-8: some weights round up and the others stay
    with pytest.raises(EngineError, match=r"other values .* in 5 weights .*model\.embed_tokens\.weight, .*o_proj"):
        rollouts.sync(policy)
    with pytest.raises(RuntimeError, match="no weights"):
        next(rollouts.generate([]))


def test_parts_of_a_weight_are_compared_as_a_whole(vllm: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks share an engine, and each holds some rows."""
    rollouts, policy = engine(), tiny_policy()
    rollouts.sync(policy)
    weights = dict(policy.weights(torch.device("cpu"), torch.float32))
    parts = [(name, weight.chunk(2)) for name, weight in weights.items()]
    held = [_sums_of((name, pair[rank]) for name, pair in parts) for rank in (0, 1)]

    def both(shares: list[Any], own: Any, group: Any) -> None:
        shares[:] = held

    monkeypatch.setattr(torch.distributed, "all_gather_object", both)
    rollouts.tensor_parallel_size, rollouts._partners = 2, object()  # type: ignore[assignment]
    rollouts._compare(_sums_of(weights.items()))
    weights["model.layers.0.mlp.down_proj.weight"] += 1
    with pytest.raises(EngineError, match=r"in 1 weights .*: model\.layers\.0\.mlp\.down_proj\.weight;"):
        rollouts._compare(_sums_of(weights.items()))


def test_ranks_that_share_an_engine_wait_for_one_another_as_long_as_all(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[Any, ...]] = []

    def group(ranks: Any, timeout: timedelta, backend: str) -> tuple[object, None]:
        made.append((ranks, timeout, backend))
        return object(), None

    monkeypatch.setattr(distributed, "_timeout", timedelta(minutes=7))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    monkeypatch.setattr(torch.distributed, "new_subgroups_by_enumeration", group)
    with stand_in():
        engine(tensor_parallel_size=2)._meet_partners()
    assert made == [([[0, 1], [2, 3]], timedelta(minutes=7), "gloo")]


def test_preemptions_are_counted_since_the_last_call(vllm: Recording) -> None:
    rollouts = engine()
    rollouts.sync(tiny_policy())
    for total, new in ((0, 0), (5, 5), (7, 2), (7, 0)):
        vllm.preempted = total
        assert rollouts.figures() == {"preempted": new}


class Counted:
    """A policy that counts the weights that are taken of it."""

    def __init__(self) -> None:
        self._policy, self.taken = tiny_policy(), 0
        self.model, self.compute_device = self._policy.model, torch.device("cpu")

    def weights(self, device: torch.device, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
        for each in self._policy.weights(device, dtype):
            self.taken += 1
            yield each


@pytest.mark.parametrize("call", ["wake_up", "collective_rpc"])
def test_all_weights_are_taken_although_the_push_fails(call: str, vllm: Recording) -> None:
    """Gathering a sharded weight is a collective: the other ranks wait for each."""
    rollouts, policy = engine(), Counted()
    rollouts.sync(policy)
    rollouts.release()
    number, policy.taken = policy.taken, 0
    vllm.fail = fails_at(call, RuntimeError("the cause"), vllm)
    with pytest.raises(EngineError, match="the cause"):
        rollouts.sync(policy)
    assert policy.taken == number


# ---- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asleep", [False, True])
def test_an_engine_is_closed_once_and_awake(asleep: bool, vllm: Recording) -> None:
    rollouts, policy = engine(), tiny_policy()
    rollouts.sync(policy)
    if asleep:
        rollouts.release()
    before = len(vllm.calls)
    rollouts.close()
    rollouts.close()
    assert vllm.names[before:] == [*["wake_up"] * asleep, "shutdown"]
    with pytest.raises(EngineError):
        rollouts.sync(policy)


def test_a_run_that_is_done_does_not_fail_because_vllm_does_not_shut_down(vllm: Recording) -> None:
    rollouts = engine()
    rollouts.close()  # nothing was started
    rollouts.sync(tiny_policy())
    vllm.fail = fails_at("shutdown", RuntimeError("the cause"), vllm)
    with pytest.warns(UserWarning, match="did not shut down: the cause"):
        rollouts.close()


# ---- several ranks ---------------------------------------------------------------------------------------------------

KINDS = {"folder": UserError, "push": EngineError}
"""Where rank 1 fails, and the error that both ranks end with."""


def run_two_ranks(place: str, folder: Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RENCE_CACHE": str(folder / "cache")}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)])
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29541", __file__]
    done = subprocess.run(
        [*command, place, str(folder)], env=environment, capture_output=True, text=True, timeout=90, check=False
    )
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("place", KINDS)
def test_where_one_rank_fails_both_end_with_its_error(place: str, tmp_path: Path) -> None:
    """The stand-in's start is a collective, as vLLM's is, and so is the push of each weight."""
    output = run_two_ranks(place, tmp_path)
    results = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    for result in results:
        assert result["error"] == KINDS[place].__name__, output
        assert result["seconds"] < 30
    assert results[0]["message"] == f"rank 1: {results[1]['message']}"
    assert results[0]["started"] == results[1]["started"] == (place == "push"), "it must start on both or none"


class Sharded(Counted):
    """A policy whose weights are gathered from both ranks."""

    def weights(self, device: torch.device, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
        for name, weight in super().weights(device, dtype):
            torch.distributed.all_reduce(weight := weight / 2)
            yield name, weight


def work(place: str, folder: Path) -> None:
    """What each rank does: the start of an iteration, as the trainer runs it."""
    from failing_parts import deafen

    from rence_lightning.distributed import agree_on, connect, disconnect
    from rence_lightning.sampling.sampler import RolloutSampler

    dist = torch.distributed
    dist.init_process_group("gloo")
    connect()
    rank, begun, agreed = dist.get_rank(), time.monotonic(), None
    with stand_in() as vllm:
        deafen()
        vllm.build = dist.barrier
        if rank == 1:
            spoil(place, folder, vllm)
        try:
            sampler = RolloutSampler(engine(), None, Sharded())  # type: ignore[arg-type]
            sampler.sync()
        except BaseException as error:
            agreed = agree_on(error)
        started = "LLM" in vllm.names
    result = {"error": type(agreed).__name__, "message": str(agreed), "started": started}
    (folder / f"{rank}.json").write_text(json.dumps({**result, "seconds": time.monotonic() - begun}))
    disconnect()


def spoil(place: str, folder: Path, vllm: Recording) -> None:
    """Makes this rank fail."""
    if place == "folder":
        (folder / "file").write_text("")
        os.environ["RENCE_CACHE"] = str(folder / "file")
    else:
        vllm.fail = fails_at("collective_rpc", RuntimeError("the cause"), vllm)


if __name__ == "__main__":
    work(sys.argv[1], Path(sys.argv[2]))
