"""The contract between engines and policies: what an engine reads of a policy, and how one is chosen in YAML."""

from collections.abc import Container, Iterable, Iterator
from importlib.metadata import PackageNotFoundError

import pytest
import torch
from engine_streams import sampled
from jsonargparse import ArgumentParser
from tiny_models import tiny_model
from transformers import PreTrainedModel

from rence_lightning.errors import UserError
from rence_lightning.rollouts import (
    Request,
    RolloutEngine,
    SampledPolicy,
    Sampling,
    SamplingStep,
    TransformersEngine,
    VLLMEngine,
    vllm_host,
)


class BarePolicy:
    """Only what the protocol names: no `Policy`, no module, no tokenizer."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self.read: list[str] = []

    @property
    def model(self) -> PreTrainedModel:
        self.read.append("model")
        return self._model

    @property
    def compute_device(self) -> torch.device:
        self.read.append("compute_device")
        return torch.device("cpu")


class SilentEngine:
    """A user's engine with the signatures of the protocol, and no base class."""

    def sync(self, policy: SampledPolicy) -> None: ...

    def generate(self, requests: Iterable[Request], cancelled: Container[int] = ()) -> Iterator[SamplingStep]:
        yield SamplingStep(0, 0)

    def release(self) -> None: ...


def test_an_engine_reads_of_a_policy_what_the_protocol_names() -> None:
    policy = BarePolicy(tiny_model())
    engine = TransformersEngine()
    engine.sync(policy)
    groups = sampled(engine, [[5, 6], [7]], 3, Sampling(max_response_tokens=4), [1, 2])
    assert [len(group) for group in groups] == [3, 3]
    assert set(policy.read) <= set(vars(SampledPolicy)), "an engine reads what the protocol does not promise"


@pytest.mark.parametrize("name", ["rence_lightning.rollouts.TransformersEngine", f"{__name__}.SilentEngine"])
def test_an_engine_of_that_protocol_is_accepted_in_yaml(name: str) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--engine", type=RolloutEngine)
    engine = parser.instantiate(parser.parse_args([f"--engine={name}"])).engine
    assert type(engine).__name__ == name.rpartition(".")[2]


def test_a_missing_vllm_is_one_line_with_a_command_that_works_in_a_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(vllm_host, "version", absent)
    with pytest.raises(UserError) as caught:
        VLLMEngine()
    message = str(caught.value)
    assert "pip install -e '.[vllm]' in the root of the clone" in message and "\n" not in message
    assert "rence_lightning[" not in message, "the package is not on PyPI"
