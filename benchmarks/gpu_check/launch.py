"""Work of a part in processes of its own: `call` starts it, and `python -m benchmarks.gpu_check.launch` does it."""

import json
import os
import pkgutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist

from benchmarks.gpu_check.findings import Failed
from rence_lightning.distributed import disconnect

ROOT = Path(__file__).parents[2]


def call(function: str, arguments: dict[str, Any], environment: Mapping[str, str] | None = None) -> Any:
    """Calls a function in a new Python process, and returns its result.

    A function that uses Lightning with several devices runs on each of them: Lightning starts the same command again.
    What it prints goes to this process's output.

    Args:
        function: Import path, `module:function`.
        arguments: Arguments by name, as JSON.
        environment: Environment variables in addition to those of this process.

    Returns:
        The result, as JSON; on ranks other than 0 the function must return None.

    Raises:
        Failed: The process ended with an error.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-m", "benchmarks.gpu_check.launch", function, json.dumps(arguments), str(result)]
        code = run(command, environment)
        if code or not result.exists():
            raise Failed(f"{function} {ended(code)}; its last output is below")
        return json.loads(result.read_text())


def run(command: list[str], environment: Mapping[str, str] | None = None) -> int:
    """Runs a command in the root of the project, and returns its exit code; its output goes to this process's own."""
    print(f"$ {' '.join(command)}", flush=True)
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **(environment or {})}, check=False).returncode


def ended(code: int) -> str:
    """How a process ended, in words."""
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"


def main() -> None:
    function, arguments, result = sys.argv[1:]
    value = pkgutil.resolve_name(function)(**json.loads(arguments))
    if value is not None:  # on rank 0; an engine that was closed has ended the process group, so it cannot be asked
        Path(result).write_text(json.dumps(value))
    if dist.is_initialized():
        disconnect()
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
