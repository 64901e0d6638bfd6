"""What docs/methods.md says of files, keys, classes and values is so."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import CONF, ROOT, config_of
from transformers import Qwen3Config, Qwen3ForCausalLM

METHODS = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
SCALING = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
SPANS = sorted(set(re.findall(r"`([^`\n]+)`", METHODS)))


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("path", [span for span in SPANS if re.fullmatch(r"[\w/.]+\.(py|yaml|md)", span)])
def test_files_that_are_named_exist(path: str) -> None:
    assert path in ("metrics.csv", "my_objective.py") or (ROOT / path).exists()


def test_keys_that_are_named_exist_and_have_the_values_that_are_given() -> None:
    config = config_of("fit", f"--config={CONF / 'rence.yaml'}")
    sections = "|".join(config)
    keys = [span for span in SPANS if re.fullmatch(rf"({sections})(\.\w+)*", span)]
    assert len(keys) > 25, "the pattern no longer finds the keys"
    for key in keys:
        value_of(config, key)
    for row in re.findall(r"^\| .* \| (`.*`) \| (.*) \|$", METHODS.split("## Numbers")[1].split("\n## ")[0], re.M):
        names, values = re.findall(r"`([^`]+)`", row[0]), row[1].split(", ")
        for name, value in zip(names, values, strict=False):
            if name != "model.optimizer" and (number := re.match(r"[\d.]+$|[\d.]+(?= )", value.removeprefix("avg@"))):
                assert value_of(config, name) == float(number[0]), name


def value_of(config: Any, key: str) -> Any:
    for name in key.split("."):
        assert name in config, key
        config = config[name]
    return config


def test_classes_and_functions_that_are_named_exist() -> None:
    rooms = [importlib.import_module(f"rence_lightning.{room}") for room in ("objectives", "prompts", "sampling")]
    table = METHODS.split("## Objectives")[1].split("\n## ")[0]
    names = re.findall(r"^\| `(\w+)` \|", table, re.M) + re.findall(r"`(\w+(?:Filter|Skipping))`", table)
    assert len(names) > 10
    for name in names:
        assert any(hasattr(room, name) for room in rooms), name
    for path, name in re.findall(r"`(rence_lightning/[\w/]+)\.py`, `([\w.]+)`", METHODS):
        part: Any = importlib.import_module(path.replace("/", "."))
        for attribute in name.split("."):
            part = getattr(part, attribute)


QWEN3 = {  # hidden size, intermediate size, layers, heads, tied embeddings; 8 key-value heads of 128 each
    "Qwen3-4B": (2560, 9728, 36, 32, True),
    "Qwen3-8B": (4096, 12288, 36, 32, False),
    "Qwen3-14B": (5120, 17408, 40, 40, False),
    "Qwen3-32B": (5120, 25600, 64, 64, False),
}


@pytest.mark.parametrize("name", QWEN3)
def test_the_arithmetic_of_memory(name: str) -> None:
    hidden, intermediate, layers, heads, tied = QWEN3[name]
    config = Qwen3Config(
        vocab_size=151936,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=tied,
    )
    with torch.device("meta"):
        model = Qwen3ForCausalLM(config)
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e9
    rows = [
        line.strip("|").split("|")
        for line in SCALING.split("**while sampling**")[1].splitlines()
        if line.startswith("|")
    ]
    column = [cell.strip() for cell in rows[0]].index(name)
    table = {row[0].strip(): float(row[column]) for row in rows[2:7]}
    expected = {
        "parameters, 10^9": parameters,
        "parameters and optimizer states on each of 8 GPUs: 12 P / 8": 12 * parameters / 8,
        "engine's weights, bfloat16: 2 P": 2 * parameters,
        "engine's keys and values, kB a token": 2 * 2 * layers * 8 * 128 / 1e3,
        "main memory to load it (rank 0 alone): 4 P": 4 * parameters,
    }
    for row, value in expected.items():
        assert table[row] == pytest.approx(value, abs=0.06 if value < 100 else 0.6), row


@pytest.mark.parametrize("overlay", sorted((CONF / "hardware").glob("*.yaml")), ids=lambda overlay: overlay.stem)
def test_hardware_overlays_are_complete_and_in_the_table(overlay: Path) -> None:
    config = config_of("fit", f"--config={CONF / 'rence.yaml'}", f"--config={overlay}")
    frozen = config["model"]["lora"] is not None
    assert config["model"]["dtype"] == ("bfloat16" if frozen else "float32") and config["data"]["group_size"] == 8
    assert f"`conf/hardware/{overlay.name}`" in SCALING


def test_keys_that_scaling_names_exist() -> None:
    config = config_of("fit", f"--config={CONF / 'rence.yaml'}")
    sections = "|".join(config)
    keys = set(re.findall(rf"`((?:{sections})(?:\.\w+)+)(?=[`:])", SCALING))
    assert len(keys) > 12, "the pattern no longer finds the keys"
    for key in keys:
        value_of(config, key)
