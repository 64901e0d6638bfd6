"""Models of many architectures: log-probabilities, gradients, sampling and training, against plain `transformers`.

`docs/models.md` has a table of what was found; `python tests/test_architectures.py` writes it.
"""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted_models import randomise
from architectures import ARCHITECTURES, NAMES, TOKENIZER, VOCABULARY, saved, tiny_model
from peft import PeftModel
from rollouts.engine_streams import sampled
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from rence_lightning import Problem, Response, Result, fit
from rence_lightning.errors import UserError
from rence_lightning.policy import LoRA, PackedRow, Policy, Segment, export_policy, load_policy
from rence_lightning.policy.adapters import add_adapters
from rence_lightning.policy.attention import implementation
from rence_lightning.policy.export import export_adapters
from rence_lightning.prompts import ProblemSource
from rence_lightning.rollouts import Sampling, TransformersEngine
from rence_lightning.rollouts.decoding import SharedPromptDecoder

pytestmark = pytest.mark.filterwarnings("ignore:.*(is sampled with|has another attention)")
PAGE = Path(__file__).parents[1] / "docs" / "models.md"
MARKS = ("<!-- architectures -->\n", "<!-- end -->\n")
TOLERANCE = 1e-5
TRAINED = [name for name, each in ARCHITECTURES.items() if not each.refused]


def cases(names: list[str], fast: bool = True) -> Any:
    """A parameter for each architecture, of which one of each kind is in the fast tier."""
    marks = {name: () if fast and ARCHITECTURES[name].fast else (pytest.mark.slow,) for name in names}
    return pytest.mark.parametrize("name", [pytest.param(name, marks=marks[name]) for name in names])


@cache
def loaded(name: str) -> Policy:
    """The policy as training has it: loaded from a folder, in training mode."""
    with tempfile.TemporaryDirectory() as folder:
        return load_policy(str(saved(ARCHITECTURES[name], Path(folder)))).train()


def tokens(length: int, first: int) -> list[int]:
    return [4 + (first + 7 * place + place**2) % (VOCABULARY - 4) for place in range(length)]


SEGMENTS = [
    Segment(tokens(7, 1), [tokens(9, 2), tokens(4, 3), tokens(12, 4)]),
    Segment(tokens(3, 5), [tokens(11, 6), tokens(2, 7)]),
]


def close(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours, expected, rtol=0, atol=TOLERANCE * float(expected.detach().abs().max()))


def gradient(model: PreTrainedModel, log_probs: Tensor) -> Tensor:
    """Of a weighted sum of the log-probabilities, with respect to all parameters."""
    model.zero_grad()
    (log_probs * torch.linspace(-1, 2, len(log_probs))).sum().backward()
    return torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in model.parameters()]
    )


def by_transformers(model: PreTrainedModel) -> Tensor:
    """Log-probabilities of one response after the other, without padding, from the model's own logits."""
    found = []
    with implementation(model.eval(), "eager"):
        for segment in SEGMENTS:
            for response in segment.responses:
                ids = torch.tensor([[*segment.prompt, *response]])
                logits = model(ids, use_cache=False).logits[0, len(segment.prompt) - 1 : -1]
                found.append(logits.log_softmax(-1).gather(-1, ids[0, len(segment.prompt) :, None]).squeeze(-1))
    return torch.cat(found)


@cases(TRAINED)
def test_log_probs_and_gradients_are_those_of_transformers(name: str) -> None:
    policy, plain = loaded(name), tiny_model(ARCHITECTURES[name])
    expected = by_transformers(plain)
    expected_gradient = gradient(plain, expected)
    for packed in {policy.packed, False}:
        ours = policy(PackedRow(SEGMENTS, torch.device("cpu")), packed=packed).log_probs
        close(ours, expected)
        close(gradient(policy.model, ours), expected_gradient)


@cases(TRAINED)
def test_the_engine_samples_with_the_log_probs_of_the_policy(name: str) -> None:
    """Prompts of unequal lengths; rows that end early leave the batch, and a second batch follows."""
    policy, engine = loaded(name), TransformersEngine(max_num_seqs=9)
    policy.model.generation_config.eos_token_id = list(range(2, VOCABULARY, 4))
    engine.sync(policy)
    engine.check()
    prompts = [tokens(length, length) for length in (3, 9, 6, 2)]
    groups = sampled(engine, prompts, 3, Sampling(max_response_tokens=14), [1, 2, 3, 4])
    lengths = {len(rollout.token_ids) for group in groups for rollout in group}
    assert len(lengths) > 2, "the test needs responses that end at different times"
    segments = [Segment(p, [each.token_ids for each in group]) for p, group in zip(prompts, groups, strict=True)]
    with torch.no_grad():
        ours = policy(PackedRow(segments, torch.device("cpu"))).log_probs
    close(torch.cat([torch.tensor(each.log_probs) for group in groups for each in group]), ours)


@cases([name for name, each in ARCHITECTURES.items() if each.without])
def test_the_setting_that_makes_the_architecture_matters_here(name: str) -> None:
    architecture, ids = ARCHITECTURES[name], torch.tensor([tokens(16, 1)])
    with_it, without = tiny_model(architecture), tiny_model(architecture, **architecture.without)
    without.load_state_dict(with_it.state_dict())
    with implementation(with_it, "eager"), implementation(without, "eager"):
        logits, others = (model(ids, use_cache=False).logits.detach() for model in (with_it, without))
    assert (logits - others).abs().max() > 100 * TOLERANCE * logits.abs().max()


def reward(response: Response) -> float:
    return (sum(response.token_ids) + len(response.token_ids)) % 3 / 2


class Problems(ProblemSource):
    """Sums, which tell whether they were read."""

    def __init__(self) -> None:
        self.read = False

    def load(self) -> list[Problem]:
        self.read = True
        sums = [(a, b) for a in range(9) for b in (1, 12)]
        return [Problem(f"{a}+{b}", f"{a}+{b}", str(a + b)) for a, b in sums]


def trained(folder: Path, problems: Problems) -> Result:
    return fit(
        policy=folder,
        problems=problems,
        reward=reward,
        config="arithmetic",
        max_iterations=2,
        run_dir=folder / "run",
        evaluation={"every": 0},
        data={
            "sampling": {"max_response_tokens": 12},
            "group_size": 4,
            "prompts_per_iteration": 4,
            "prompts_per_update": 2,
            "prompts_per_draw": 4,
        },
        trainer={"cpu_threads": 1},
    )


@cases([name for name, each in ARCHITECTURES.items() if each.refused])
def test_what_cannot_be_trained_is_refused_by_name(name: str) -> None:
    with pytest.raises(UserError, match=ARCHITECTURES[name].refused):
        engine = TransformersEngine()
        engine.sync(loaded(name))
        engine.check()


def test_a_model_that_cannot_be_sampled_is_refused_before_problems_are_read(tmp_path: Path) -> None:
    problems = Problems()
    with pytest.raises(UserError, match="engine: transformers cannot sample RwkvForCausalLM: it returns no"):
        trained(saved(ARCHITECTURES["RWKV"], tmp_path), problems)
    assert not problems.read and not (tmp_path / "run").exists()


@cases(TRAINED, fast=False)
def test_two_iterations_of_training(name: str, tmp_path: Path) -> None:
    result = trained(saved(ARCHITECTURES[name], tmp_path), Problems())
    differences = [value for _, value in result.curve("rollouts/mismatch_abs")]
    assert len(differences) == 2 and max(differences) < TOLERANCE
    assert all(norm > 0 for _, norm in result.curve("train/grad_norm"))


def row(name: str) -> str:
    """The row of the documentation: what training and sampling with a model are like."""
    adapted = tiny_model(ARCHITECTURES[name])
    engine = TransformersEngine()
    engine.sync(policy := loaded(name))
    try:
        engine.check()
        sampling = "shared prompts" if engine._decoder is SharedPromptDecoder else "own cache"
    except UserError:
        sampling = "refused"
    layers = add_adapters(adapted, LoRA(), "").layers
    shown = [f"`{type(adapted).__name__}`", "packed" if policy.packed else "padded", sampling]
    return f"| {' | '.join([name, *shown, ' '.join(f'`{layer}`' for layer in layers)])} |"


@cases(TRAINED)
def test_every_adapter_takes_part(name: str) -> None:
    policy = Policy(tiny_model(ARCHITECTURES[name]), TOKENIZER)
    add_adapters(policy.model, LoRA(), "")
    policy(PackedRow(SEGMENTS, torch.device("cpu"))).log_probs.sum().backward()
    unused = [name for name, weight in policy.named_parameters() if weight.requires_grad and weight.grad is None]
    assert not [name for name in unused if "index" not in name], "those that choose tokens alone have no gradient"


@cases(TRAINED)
def test_exported_adapters_compute_in_plain_transformers_and_peft_what_they_did_in_training(
    name: str, tmp_path: Path
) -> None:
    base, merged, adapters = (tmp_path / each for each in ("base", "merged", "adapters"))
    saved(ARCHITECTURES[name], base)
    policy = load_policy(str(base), lora=LoRA(r=3))
    randomise(policy)
    expected = by_transformers(policy.model)
    export_policy(policy, merged)
    export_adapters(policy, adapters)
    plain, below = (AutoModelForCausalLM.from_pretrained(folder) for folder in (merged, base))
    assert (by_transformers(below) - expected).abs().max() > 0.01
    PeftModel.from_pretrained(below, str(adapters))  # it puts the adapters into the model
    for model in (plain, below):
        close(by_transformers(model), expected)


@cases(list(ARCHITECTURES))
def test_the_documentation_has_what_was_found(name: str) -> None:
    assert row(name) in PAGE.read_text().splitlines(), "write it by: python tests/test_architectures.py"


def test_the_documentation_lists_these_architectures_alone() -> None:
    rows = PAGE.read_text().partition(MARKS[0])[2].partition(MARKS[1])[0].splitlines()[2:]
    assert [each.split(" | ")[0].removeprefix("| ") for each in rows] == NAMES


if __name__ == "__main__":
    before, _, rest = PAGE.read_text().partition(MARKS[0])
    rows = ["| model | class | forward pass | transformers engine | layers of `all-linear` |", "|---|---|---|---|---|"]
    rows += [row(name) for name in ARCHITECTURES]
    PAGE.write_text(before + MARKS[0] + "\n".join(rows) + "\n" + MARKS[1] + rest.partition(MARKS[1])[2])
