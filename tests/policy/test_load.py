"""Where policies come from and go to."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rence_lightning.errors import UserError
from rence_lightning.policy import export_policy, load_policy


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("embedded:geometry", "no embedded policy 'geometry'; there is: arithmetic"),
        ("./nowhere", "no folder './nowhere'"),
        ("gguf:no_such_package/model.gguf", "pip install --no-deps no-such-package"),
        ("gguf:json/model.gguf", "package json has no file model.gguf"),
    ],
)
def test_an_unknown_policy_is_one_line_with_the_mend(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        load_policy(name)
    assert "\n" not in str(error.value)


def test_a_folder_without_a_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot load") as error:
        load_policy(str(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_exported_policy_is_the_policy(tmp_path: Path, dtype: str) -> None:
    policy = load_policy("embedded:arithmetic", dtype=dtype)  # type: ignore[arg-type]
    with torch.no_grad():
        policy.model.model.norm.weight.mul_(2)
    folder = tmp_path / "run" / "hf"
    export_policy(policy, folder)
    again = AutoModelForCausalLM.from_pretrained(folder)
    assert again.dtype == policy.model.dtype
    for (name, one), (_, other) in zip(policy.model.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(one, other), name
    text = "76+4=?\n"
    assert AutoTokenizer.from_pretrained(folder)(text).input_ids == policy.tokenizer(text).input_ids
    assert again.generation_config.eos_token_id == policy.model.generation_config.eos_token_id


def test_an_export_replaces_an_older_one_and_leaves_no_draft(tmp_path: Path) -> None:
    folder = tmp_path / "hf"
    folder.mkdir()
    (folder / "stale.txt").write_text("of an earlier run")
    export_policy(load_policy("embedded:arithmetic"), folder)
    assert not (folder / "stale.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_full_weights_of_a_tied_model_are_written_once(tmp_path: Path) -> None:
    """Assembled from shards, the output projection is a tensor of its own, equal to the embedding."""
    policy = load_policy("embedded:arithmetic")
    weights = {name: weight.clone() for name, weight in policy.model.state_dict().items()}
    assert "lm_head.weight" in weights
    export_policy(policy, tmp_path / "hf", weights)
    export_policy(policy, tmp_path / "plain")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("hf", "plain")]
    assert sizes[0] == sizes[1]
