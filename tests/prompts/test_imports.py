"""What starting a command or a reward worker costs: the libraries that importing a room loads."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import rence_lightning

PACKAGE = Path(rence_lightning.__file__).parent
FLOOR = ["rollouts", "prompts", "rewards", "objectives", "policy"]
BELOW = ["distributed", "text", "errors"]
HEAVY = ["torch", "transformers", "datasets", "jinja2", "vllm", "gguf", "sympy", "numpy"]


@pytest.mark.parametrize(
    ("room", "allowed"),
    [
        ("prompts", []),
        ("rewards", []),
        ("objectives", ["torch", "numpy"]),
        ("rollouts", ["torch", "numpy", "sympy"]),  # sympy by torch.distributed.tensor
        ("policy", ["torch", "numpy", "sympy"]),
    ],
)
def test_a_room_loads_the_libraries_it_needs_and_no_others(room: str, allowed: list[str]) -> None:
    program = f"import json, sys, rence_lightning.{room}; print(json.dumps([n for n in {HEAVY} if n in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout)) <= set(allowed)


@pytest.mark.parametrize("room", FLOOR)
def test_the_rooms_of_a_floor_do_not_import_one_another(room: str) -> None:
    for file in (PACKAGE / room).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                if name.startswith("rence_lightning"):
                    assert name.split(".")[1] in [room, *BELOW], f"{file} imports {name}"
                assert not name.startswith(("lightning", "pytorch_lightning")), f"{file} knows of Lightning"
