"""Adapters above a sharded base, in each combination of data types. (Whole runs: test_sharding.py.)"""

import pytest
import torch
from adapted_models import randomise, trained
from lightning.fabric import Fabric
from two_processes import in_two_processes

from rence_lightning.policy import LoRA, PackedRow, Segment, load_policy
from rence_lightning.rollouts import TransformersEngine
from rence_lightning.training.strategy import FullyShardStrategy, full_state_dict


def compare_with_one_process(rank: int) -> None:
    """Runs in each of two processes: gradients, gathered weights and the engine's copy, for each choice of data types.

    A frozen base in bfloat16 and adapters in float32 are gathered together, in one group of parameters.
    """
    row = PackedRow([Segment([5, 6], [[6, 7, 8], [9, 4]])], torch.device("cpu"))
    for dtype, precision, offload in (
        ("float32", "32-true", False),
        ("bfloat16", "32-true", False),
        ("bfloat16", "bf16-mixed", False),
        ("bfloat16", "bf16-mixed", True),
        ("float32", "bf16-mixed", False),
    ):
        fabric = Fabric(
            accelerator="cpu", devices=2, strategy=FullyShardStrategy(cpu_offload=offload), precision=precision
        )
        fabric.launch()
        reference = load_policy("embedded:arithmetic", dtype=dtype, lora=LoRA(r=3))  # type: ignore[arg-type]
        randomise(reference)
        with fabric.autocast():
            expected = reference(row).log_probs
        expected.sum().backward()
        policy = load_policy("embedded:arithmetic", dtype=dtype, lora=LoRA(r=3), empty=rank > 0)  # type: ignore[arg-type]
        if rank == 0:
            randomise(policy)
        wrapped = fabric.setup_module(policy)
        with fabric.autocast():
            log_probs = wrapped(row).log_probs
        rounding = 1e-5 if dtype == "float32" and precision == "32-true" else 0.1
        torch.testing.assert_close(log_probs, expected, rtol=0, atol=rounding)
        fabric.backward(log_probs.sum())
        for (name, ours), whole in zip(trained(policy).items(), trained(reference).values(), strict=True):
            gradient = ours.grad.full_tensor().to("cpu")  # averaged over two processes with the same row
            assert gradient.dtype == torch.float32 and ours.dtype == torch.float32
            scale = float(whole.grad.abs().max())
            assert scale > 1e-4, "the comparison needs gradients"
            torch.testing.assert_close(gradient, whole.grad, rtol=0, atol=rounding * scale, msg=f"{name} {precision}")
        assert all(parameter.grad is None for parameter in policy.parameters() if not parameter.requires_grad)
        assert policy.frozen_digest() == reference.frozen_digest()
        merged = dict(reference.weights(torch.device("cpu"), torch.float32))
        for name, weight in policy.weights(torch.device("cpu"), torch.float32):
            assert torch.equal(weight, merged[name]), name
        engine = TransformersEngine()
        with fabric.autocast():  # as a run samples
            engine.sync(policy)
        assert engine._model is not None
        copies = dict(engine._model.named_parameters(remove_duplicate=False))
        assert copies.keys() == merged.keys()
        assert all(torch.equal(copy, merged[name].to(copy.dtype)) for name, copy in copies.items()), "other weights"
        whole_state = full_state_dict(policy)
        assert rank or all(torch.equal(weight, reference.state_dict()[name]) for name, weight in whole_state.items())


@pytest.mark.slow
def test_gradients_and_gathered_weights_are_those_of_one_process_in_any_data_types() -> None:
    in_two_processes(compare_with_one_process)
