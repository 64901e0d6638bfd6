"""What the attention of trainer and engine share: which models attend fully and causally, and switching a model."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

SPECIAL = ("sliding_window", "softcap", "s_aux", "position_bias")
"""Arguments by which the layers of `transformers` ask for more than full causal attention."""


def special_attention(model: "PreTrainedModel") -> str:
    """What in a model's attention is not full and causal, or cannot be exchanged, as the end of a sentence that
    begins with "it"; empty if nothing is.

    It reads the configuration and names of weights; `compare_paths` and `decoder_for` find what they do not show.
    """
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    if kinds is None and getattr(config, "use_sliding_window", True) and getattr(config, "sliding_window", None):
        kinds = ["sliding_attention"]
    if special := set(kinds or ()) - {"full_attention"}:
        return f"has layers of another kind than full attention ({', '.join(sorted(special))})"
    if getattr(config, "attn_logit_softcapping", None) is not None:
        return "soft-caps the scores of its attention"
    if any(name.endswith(".sinks") for name, _ in model.named_parameters()):
        return "has attention sinks"
    return "" if model._can_set_attn_implementation() else "has an attention that cannot be chosen"


def special_arguments(arguments: Mapping[str, Any]) -> str:
    """Names of the arguments that ask for more than full causal attention, joined by commas."""
    return ", ".join(name for name in SPECIAL if arguments.get(name) is not None)


@contextmanager
def implementation(model: "PreTrainedModel", name: str) -> Iterator[None]:
    """Switches a model to an attention implementation, where it can be switched, and back."""
    # Not `set_attn_implementation`: switching back would check the implementation again, or load its kernel again.
    configs = list(with_parts(model.config)) if model._can_set_attn_implementation() else []
    before = [config._attn_implementation for config in configs]
    try:
        for config in configs:
            config._attn_implementation = name
        yield
    finally:
        for config, own in zip(configs, before, strict=True):  # each part after the whole, which sets both
            config._attn_implementation = own


def with_parts(config: "PretrainedConfig") -> "Iterator[PretrainedConfig]":
    """A configuration and, after it, the configurations of its parts."""
    yield config
    for name in config.sub_configs:
        if (part := getattr(config, name, None)) is not None:
            yield from with_parts(part)
