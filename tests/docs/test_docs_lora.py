"""What docs/lora.md says of keys, memory and Python is so."""

import re
from typing import Any

import pytest
import torch
from command_line import CONF, ROOT, config_of
from test_docs import value_of
from transformers import Qwen3Config, Qwen3ForCausalLM

from rence_lightning.policy import LoRA
from rence_lightning.policy.adapters import add_adapters

PAGE = (ROOT / "docs" / "lora.md").read_text(encoding="utf-8")
OVERLAY = CONF / "hardware" / "gpu1_lora.yaml"
MODELS = {"Qwen3-1.7B": (2048, 6144, 28, 16), "Qwen3-4B": (2560, 9728, 36, 32)}
"""Hidden size, intermediate size, layers and heads; tied embeddings, and 8 key-value heads of 128 each."""


def column(model: str) -> dict[str, float]:
    rows = [line.strip("|").split("|") for line in PAGE.split("## Memory")[1].splitlines() if line.startswith("| ")]
    number = [cell.strip() for cell in rows[0]].index(model)
    return {row[0].strip(): float(row[number]) for row in rows[1:8]}


@pytest.mark.parametrize("name", MODELS)
def test_the_arithmetic_of_memory(name: str) -> None:
    hidden, intermediate, layers, heads = MODELS[name]
    shape = {"hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers}
    config = Qwen3Config(
        vocab_size=151936,
        num_attention_heads=heads,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=True,
        **shape,
    )
    with torch.device("meta"):
        model = Qwen3ForCausalLM(config)
    frozen = sum(parameter.numel() for parameter in model.parameters()) / 1e9
    add_adapters(model, LoRA(), name)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) / 1e9
    table = column(name)
    expected = {
        "frozen parameters P, 10^9": frozen,
        "trained parameters A, 10^6": 1e3 * trained,
        "full training: 16 P": 16 * frozen,
        "frozen weights, bfloat16: 2 P": 2 * frozen,
        "adapters, gradients, AdamW: 16 A": 16 * trained,
        "a checkpoint: 12 A": 12 * trained,
        "engine's keys and values, kB a token": 2 * 2 * layers * 8 * 128 / 1e3,
    }
    for row, value in expected.items():
        assert table[row] == pytest.approx(value, abs=0.06 if value < 100 else 0.6), row


def test_the_sums_of_memory_add_up_and_fit() -> None:
    sums = re.findall(r"((?:[\d.]+ \+ )+[\d.]+) = ([\d.]+)", PAGE.split("## Memory")[1])
    assert len(sums) == 4
    for (terms, total), limit in zip(sums, (24, 80, 24, 80), strict=True):
        assert sum(map(float, terms.split(" + "))) == pytest.approx(float(total), abs=0.11)
        assert float(total) < 0.9 * limit


def test_keys_that_are_named_exist() -> None:
    config = config_of("fit", f"--config={CONF / 'rence.yaml'}", f"--config={OVERLAY}")
    keys = set(re.findall(rf"`((?:{'|'.join(config)})(?:\.\w+)+)`", PAGE))
    assert len(keys) > 6, "the pattern no longer finds the keys"
    for key in keys:
        value_of(config, key)
    lora: dict[str, Any] = config["model"]["lora"]
    assert lora == {name: getattr(LoRA(), name) for name in lora}, "the overlay writes out the defaults"
    assert config["model"]["optimizer"]["init_args"]["lr"] == 1e-5
