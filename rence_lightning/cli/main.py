"""The entry point of the command line: runs a command, and turns errors into a line and an exit code."""

import os
import sys
import threading
from pathlib import Path

from rence_lightning.cli.commands import find_command
from rence_lightning.errors import exit_code, report


def main(args: list[str] | None = None) -> None:
    """Runs the command line; bad input ends it with one line and exit code 2, other errors with 1."""
    here = str(Path.cwd())
    if not sys.flags.safe_path and here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)  # the installed command can import modules of this folder, as `python -m` does
    code = run(args)
    # Not imported here: most commands need no torch.
    dist = sys.modules.get("torch.distributed")
    grading = any(thread.name.startswith("grading") for thread in threading.enumerate())
    distributed = dist is not None and dist.is_available() and dist.is_initialized()
    if code and (distributed or grading):
        # A gloo thread that outlives the interpreter aborts it, and a reward that is being computed is waited for.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    if distributed:
        sys.modules["torch.distributed"].destroy_process_group()
    if code:
        sys.exit(code)


def run(args: list[str] | None) -> int:
    """Runs a command, and reports an error once; returns the exit code."""
    arguments = sys.argv[1:] if args is None else args
    try:
        find_command(arguments)(arguments[1:])
    except (Exception, KeyboardInterrupt) as error:
        report(error, aloud=_is_rank_zero())
        return exit_code(error)
    return 0


def _is_rank_zero() -> bool:
    distributed = sys.modules.get("rence_lightning.distributed")
    if distributed is not None and (rank := distributed.rank_and_world())[1] > 1:
        return bool(rank[0] == 0)
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"  # not met yet
