"""Two processes train the policy of one with the relatives of ReNCE."""

from pathlib import Path

import pytest
from test_sharding import SHARDED, assert_close, run, weights


@pytest.mark.slow
@pytest.mark.parametrize("name", ["max_rl", "nft", "pacs"])
def test_two_processes_are_as_one(name: str, tmp_path: Path) -> None:
    """With a budget that no group fits in. (DisCO: test_limited_kl.py; the reference policy: test_reference.py.)"""
    for folder, processes in (("one", ()), ("two", SHARDED)):
        options = (f"--config=conf/family/{name}.yaml", f"--trainer.run_dir={tmp_path / folder}")
        small = ("--trainer.max_iterations=2", "--trainer.micro_batch_tokens=100")
        done = run("fit", tmp_path / folder, *options, *small, *processes)
        assert done.returncode == 0, done.stderr
    assert_close(weights(tmp_path / "one"), weights(tmp_path / "two"))
