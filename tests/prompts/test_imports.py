"""What starting a command or a reward worker costs: the libraries that importing a room loads."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import rence_lightning

PACKAGE = Path(rence_lightning.__file__).parent
HEAVY = ["torch", "transformers", "datasets", "jinja2", "vllm", "gguf", "sympy", "numpy"]


@pytest.mark.parametrize(
    ("room", "allowed"),
    [
        ("prompts", []),
        ("rewards", []),
        ("policy", ["torch", "numpy", "sympy"]),  # sympy by torch.distributed.tensor
        pytest.param("objectives", ["torch", "numpy"], marks=pytest.mark.slow),
        pytest.param("rollouts", ["torch", "numpy", "sympy"], marks=pytest.mark.slow),
    ],
)
def test_a_room_loads_the_libraries_it_needs_and_no_others(room: str, allowed: list[str]) -> None:
    program = f"import json, sys, rence_lightning.{room}; print(json.dumps([n for n in {HEAVY} if n in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout)) <= set(allowed)


@pytest.mark.slow
def test_imports_run_down_only() -> None:
    """The contracts in pyproject.toml, also where nobody runs `make lint`."""
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program, "--no-cache"], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stdout
