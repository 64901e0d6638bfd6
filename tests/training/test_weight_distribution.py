"""Rank 0 loads the weights and distributes the shards over the processes; gathered, they are the same weights."""

from pathlib import Path

import pytest
import torch
from lightning.fabric import Fabric
from tiny_models import ARCHITECTURES, tiny_model
from transformers import AutoTokenizer
from two_processes import in_two_processes

from rence_lightning.policy import PackedRow, Segment, load_policy
from rence_lightning.policy.load import EMBEDDED
from rence_lightning.training.strategy import FullyShardStrategy, full_state_dict


def distribute_and_check(rank: int, folder: Path) -> None:
    """Runs in each of two processes, for each architecture in the folder."""
    for offload in (False, True):
        for model in sorted(folder.iterdir()):
            fabric = Fabric(accelerator="cpu", devices=2, strategy=FullyShardStrategy(cpu_offload=offload))
            fabric.launch()
            policy = load_policy(str(model), empty=rank > 0)
            expected = {name: weight.clone() for name, weight in policy.state_dict().items()}
            buffers = {name: buffer.clone() for name, buffer in load_policy(str(model)).named_buffers()}
            wrapped = fabric.setup_module(policy)
            weights = full_state_dict(policy)
            assert not rank or not weights
            assert all(torch.equal(weight, expected[name]) for name, weight in weights.items())
            assert rank or weights.keys() == expected.keys()
            assert buffers.keys() == dict(policy.named_buffers()).keys() and buffers
            assert all(torch.equal(buffer, buffers[name]) for name, buffer in policy.named_buffers())
            tied = policy.model.get_output_embeddings().weight is policy.model.get_input_embeddings().weight
            assert tied == model.name.endswith("-tied")
            row = PackedRow([Segment([5], [[6, 7, 8]])], torch.device("cpu"))
            scores = wrapped(row).log_probs
            reference = load_policy(str(model))(row).log_probs
            torch.testing.assert_close(scores, reference)


@pytest.mark.slow
def test_every_process_gets_its_shards_of_the_weights_on_rank_zero(tmp_path: Path) -> None:
    for architecture in ARCHITECTURES:
        tiny_model(architecture).save_pretrained(tmp_path / architecture)
        AutoTokenizer.from_pretrained(EMBEDDED / "arithmetic").save_pretrained(tmp_path / architecture)
    in_two_processes(distribute_and_check, tmp_path)
