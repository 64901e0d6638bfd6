"""Two processes train the policy of one with the relatives of ReNCE, with a budget that no group fits in."""

from pathlib import Path

import pytest
import torch
from test_reference import reference_kls
from test_sharding import SHARDED, assert_close, run, weights

REFERENCE = "--config=conf/family/grpo_reference.yaml"


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("--config=conf/family/max_rl.yaml",), id="max_rl"),
        pytest.param(("--config=conf/family/nft.yaml",), id="nft"),
        pytest.param(("--config=conf/family/pacs.yaml",), id="pacs"),
        pytest.param(("--config=conf/family/disco.yaml", "--model.trust_region.delta=1e-6"), id="disco-limit"),
        pytest.param((REFERENCE,), id="reference"),
        pytest.param((REFERENCE, "--config=conf/small/lora.yaml"), id="reference-adapters"),
    ],
)
def test_two_processes_are_as_one(options: tuple[str, ...], tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    small = ("--trainer.max_iterations=2", "--trainer.micro_batch_tokens=100")
    for run_dir, processes in ((one, ()), (two, SHARDED)):
        done = run("fit", run_dir, *options, f"--trainer.run_dir={run_dir}", *small, *processes)
        assert done.returncode == 0, done.stderr
    if REFERENCE in options:
        torch.testing.assert_close(reference_kls(one), reference_kls(two), rtol=1e-3, atol=1e-6)
    if "--config=conf/small/lora.yaml" not in options:
        assert_close(weights(one), weights(two))
