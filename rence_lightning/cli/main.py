"""The entry point of the command line: runs a command, and turns errors into a line and an exit code."""

import errno
import signal
import sys
import traceback
from typing import Any

from omegaconf.errors import OmegaConfBaseException

from rence_lightning.cli.commands import find_command
from rence_lightning.errors import (
    CheckpointError,
    EngineError,
    EngineMismatchError,
    NonFiniteError,
    StarvationError,
    UserError,
)

OUT_OF_MEMORY = (
    "While training: lower trainer.micro_batch_tokens, set model.gradient_checkpointing, shard over more devices. "
    "While sampling: lower the engine's gpu_memory_utilization or max_sequences. docs/scaling.md has the arithmetic."
)


def main(args: list[str] | None = None) -> None:
    """Runs the command line; bad input ends it with one line and exit code 2, a starved or diverged run with 1."""
    code = run(args)
    # Left to itself, a gloo thread that outlives the interpreter aborts the process. vLLM destroys the groups with its
    # engine, at exit, and fails where they are gone.
    dist = sys.modules.get("torch.distributed")
    if dist is not None and dist.is_initialized() and "vllm" not in sys.modules:
        dist.destroy_process_group()
    if code:
        sys.exit(code)


def run(args: list[str] | None) -> int:
    """Runs a command; returns the exit code of an end that all ranks reach. An error of one rank exits there."""
    arguments = sys.argv[1:] if args is None else args
    try:
        find_command(arguments)(arguments[1:])
    except (UserError, OmegaConfBaseException) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        print("error: " + "; ".join(lines), file=sys.stderr)
        return 2
    except (StarvationError, NonFiniteError, EngineError, EngineMismatchError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print(f"error: {error}: make room and go on with --ckpt_path last", file=sys.stderr)
        sys.exit(1)
    except imported("torch", "OutOfMemoryError") as error:
        traceback.print_exc()  # where it was tells what to lower
        print(f"error: {str(error).splitlines()[0]} {OUT_OF_MEMORY}", file=sys.stderr)
        sys.exit(1)
    except imported("rence_lightning.training.stop", "Stopped") as stopped:
        return 128 + (stopped.signal or signal.SIGTERM)
    except KeyboardInterrupt:
        sys.exit(130)
    return 0


def imported(module: str, name: str) -> Any:
    """An exception class for an `except` clause; none if its module was never imported, so that nothing raised it."""
    kind = getattr(sys.modules.get(module), name, None)
    return () if kind is None else (kind,)
