"""What the trainer's and the engine's attention functions share: switching a model, and what they do not support."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

SPECIAL = ("sliding_window", "softcap", "s_aux", "position_bias")
"""Arguments by which the layers of `transformers` ask for more than full causal attention."""


def special_arguments(arguments: Mapping[str, Any]) -> str:
    """Names of the arguments that ask for more than full causal attention, joined by commas."""
    return ", ".join(name for name in SPECIAL if arguments.get(name) is not None)


@contextmanager
def implementation(model: "PreTrainedModel", name: str) -> Iterator[None]:
    """Switches a model to an attention implementation, where it can be switched, and back."""
    # Not `set_attn_implementation`: switching back would check the implementation again, or load its kernel again.
    configs = list(_with_parts(model.config)) if model._can_set_attn_implementation() else []
    before = [config._attn_implementation for config in configs]
    try:
        for config in configs:
            config._attn_implementation = name
        yield
    finally:
        for config, own in zip(configs, before, strict=True):  # each part after the whole, which sets both
            config._attn_implementation = own


def _with_parts(config: "PretrainedConfig") -> "Iterator[PretrainedConfig]":
    """A configuration and, after it, the configurations of its parts."""
    yield config
    for name in config.sub_configs:
        if (part := getattr(config, name, None)) is not None:
            yield from _with_parts(part)
