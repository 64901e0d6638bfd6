"""Export of a policy as a Hugging Face folder, and of its adapters as a folder of `peft`."""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor

from rence_lightning.errors import UserError
from rence_lightning.policy.adapters import NAME
from rence_lightning.policy.model import Policy
from rence_lightning.policy.weights import plain_weights

if TYPE_CHECKING:  # `transformers` takes seconds to import: the functions that call it import it
    from transformers import PreTrainedModel


def export_policy(
    policy: Policy, folder: Path, state_dict: dict[str, Tensor] | None = None, dtype: torch.dtype | None = None
) -> None:
    """Writes a Hugging Face folder (safetensors, tokenizer, generation config) that plain `transformers` loads.

    Adapters are merged into the weights, in float32 before they are rounded to `dtype`.

    Args:
        policy: The policy, unwrapped.
        folder: Folder to write, whole or not at all. An existing folder is replaced.
        state_dict: Full weights of `policy.model`, needed where it holds only shards of them.
        dtype: Data type of the weights (default: that of the policy; that of the base, below adapters).
    """
    model = policy.model
    if policy.adapters is not None or dtype not in (None, model.dtype):
        weights = state_dict if state_dict is not None else model.state_dict()
        model, state_dict = _plain_model(model, weights, dtype or model.dtype), None
    elif state_dict is not None and getattr(model.config, "tie_word_embeddings", False):
        tied = set(model._tied_weights_keys or ())
        state_dict = {name: weight for name, weight in state_dict.items() if name not in tied}

    def write(draft: Path) -> None:
        model.save_pretrained(draft, state_dict=state_dict)
        policy.tokenizer.save_pretrained(draft)

    _write_whole(folder, write)


def sampled_with(model: "PreTrainedModel", temperature: float, top_p: float) -> None:
    """Gives a model the generation config of the sampling that it is trained with, which its folder will have.

    Settings of the base's own config that differ, such as a `top_k`, are kept in it as `base_sampling`.
    """
    from transformers import GenerationConfig

    base = model.generation_config or GenerationConfig()
    ids = {name: getattr(base, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    own: dict[str, Any] = {"do_sample": temperature > 0}
    if temperature > 0:  # without a top_k, `generate` takes one of 50
        own |= {"temperature": temperature, "top_p": top_p, "top_k": 0}
    others = (*ids, "_", "base_sampling", "cache_", "output_", "return_", "transformers_version", "use_")
    before = {name: value for name, value in base.to_diff_dict().items() if not name.startswith(others)}
    if differing := {name: value for name, value in before.items() if own.get(name) != value}:
        own["base_sampling"] = differing
    model.generation_config = GenerationConfig(**own, **ids)


def export_adapters(policy: Policy, folder: Path) -> None:
    """Writes the adapters of a policy, which is whole on this rank, as a folder that `peft.PeftModel` loads. An
    existing folder is replaced."""
    if policy.adapters is None:
        raise UserError("export: the policy was trained without adapters (model.lora); export the policy itself")
    config = policy.adapters.config()
    config.inference_mode = True
    config.base_model_name_or_path = policy.model.name_or_path  # what `transformers` loads, not a name of this project
    weights = {
        f"base_model.model.{name.replace(f'.{NAME}.', '.')}": parameter.detach().cpu().contiguous()
        for name, parameter in policy.model.named_parameters()
        if parameter.requires_grad
    }

    def write(draft: Path) -> None:
        config.save_pretrained(str(draft))
        save_file(weights, draft / "adapter_model.safetensors", metadata={"format": "pt"})
        if policy.model.generation_config is not None:
            policy.model.generation_config.save_pretrained(draft)
        policy.tokenizer.save_pretrained(draft)

    _write_whole(folder, write)


@torch.no_grad()
def _plain_model(model: "PreTrainedModel", weights: Mapping[str, Tensor], dtype: torch.dtype) -> "PreTrainedModel":
    """A model in main memory without adapters, which are merged into its weights."""
    from transformers import AutoModelForCausalLM

    merged = plain_weights(model, weights, lambda name, _: weights[name])
    with torch.device("meta"):  # shapes alone: the weights take the place of its parameters
        plain = AutoModelForCausalLM.from_config(model.config, dtype=dtype)
    whole = {name: weight.to("cpu", dtype if weight.is_floating_point() else None) for name, weight in merged}
    plain.load_state_dict(whole, assign=True)
    plain.tie_weights()
    plain.generation_config = model.generation_config
    return cast("PreTrainedModel", plain)


def _write_whole(folder: Path, write: Callable[[Path], None]) -> None:
    """Writes a folder under another name and then renames it, so that it is whole or not there at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".tmp-", dir=folder.parent))
    try:
        write(draft)
        draft.chmod(0o755)
        for file in draft.iterdir():
            file.chmod(0o644)  # safetensors gives its files mode 600
        if folder.exists():
            shutil.rmtree(folder)
        draft.replace(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
