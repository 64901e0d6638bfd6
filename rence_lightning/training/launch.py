"""The processes of a run: torch's elastic agent starts them, watches them, and starts them again after a failure."""

import ctypes
import logging
import os
import signal
import sys
import tempfile
import warnings
from pathlib import Path
from typing import cast
from uuid import uuid4

import torch.distributed as dist
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments import ClusterEnvironment
from lightning.fabric.strategies import ParallelStrategy
from lightning.fabric.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from rence_lightning.errors import UserError

PR_SET_PDEATHSIG = 1


def launch(fabric: Fabric, max_restarts: int, shutdown_timeout: int) -> None:
    """Joins the processes that torchrun, SLURM or this function has started; where nothing has, starts them.

    This process is then their agent and does nothing else: it runs its own command again, once for each device, and
    ends when they have ended.

    Args:
        fabric: Fabric with the devices of the run.
        max_restarts: Number of times that all processes are started again after one has failed.
        shutdown_timeout: Seconds between a signal to the processes and their end by SIGKILL.

    Raises:
        UserError: The processes cannot be started from here.
        SystemExit: The processes have ended; its code is that of the first process that failed.
    """
    if dist.is_torchelastic_launched() and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)  # without the agent, they save and end
    strategy = cast(ParallelStrategy, fabric.strategy)
    alone = fabric.world_size == 1 or dist.is_initialized()
    if alone or cast(ClusterEnvironment, strategy.cluster_environment).creates_processes_externally:
        fabric.launch()
        return
    devices = len(strategy.parallel_devices or ())
    if devices < fabric.world_size:
        raise UserError("trainer: num_nodes is above 1; start the command on each machine with torchrun or srun")
    if not isinstance(strategy.launcher, _SubprocessScriptLauncher) or not _has_command():
        raise UserError(
            f"trainer: devices is {devices}, but a notebook or an interactive session is one process; set devices to "
            "1, or write a script"
        )
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    if fabric.device.type == "cpu" and devices > cores:
        advice = f"the processes wait for one another; set trainer.devices to {cores} or fewer"
        warnings.warn(f"trainer.devices is {devices}, but there are {cores} CPU cores: {advice}", stacklevel=2)
    raise SystemExit(_run_agent(devices, max_restarts, shutdown_timeout))


def _has_command() -> bool:
    """Whether the command of this process does the same again; a program that was read from standard input is gone."""
    return Path(getattr(sys.modules["__main__"], "__file__", "")).is_file() or "-c" in sys.orig_argv


def _run_agent(devices: int, max_restarts: int, shutdown_timeout: int) -> int:
    """Runs the command of this process on each device, and prints the first failure; returns the exit code."""
    logging.disable(logging.WARNING if max_restarts else logging.ERROR)  # the failures before a restart are logged
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(shutdown_timeout)  # releases before 2.12 have 30 s, always
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else each client of a dead store prints a trace of its own
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # a shared one still has the addresses of ended processes
    with tempfile.TemporaryDirectory(prefix="rence-") as errors:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=devices,
            run_id=uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="127.0.0.1",
            max_restarts=max_restarts,
            logs_specs=DefaultLogsSpecs(log_dir=errors),
            signals_to_handle="SIGTERM,SIGINT",
        )
        try:
            elastic_launch(config, sys.executable)(*sys.orig_argv[1:])
        except ChildFailedError as failed:
            return _report(failed)
        except SignalException as stopped:
            return 128 + int(stopped.sigval)
    return 0


def _report(failed: ChildFailedError) -> int:
    """Prints the first failure, unless its process has done so; returns its exit code."""
    rank, failure = failed.get_first_failure()
    if failure.exitcode < 0:
        memory = ", perhaps because the machine ran out of memory" if failure.exitcode == -signal.SIGKILL else ""
        text = f"error: rank {rank} was ended by {failure.signal_name()}{memory}; continue with --ckpt_path last"
    elif isinstance(failure.message, str) and Path(failure.error_file).is_file():
        text = failure.message
    else:
        text = ""
    if text:
        print(text, file=sys.stderr, flush=True)
    return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
