"""`python -m rence_lightning plan`: whether a run fits into memory, before it starts."""

import os
import sys
from typing import Any

from rence_lightning.cli.arguments import CommandParser
from rence_lightning.cli.settings import Settings
from rence_lightning.errors import UserError

PAPER_GPU = 80.0
"""Memory of the paper's GPUs in GB, which is taken where there is no GPU to ask."""


def plan_command(arguments: list[str]) -> None:
    """Prints the memory of a run by kind, and what to change if it does not fit.

    Raises:
        UserError: The arguments or the configuration are wrong.
        SystemExit: The run does not fit; the exit code is 1.
    """
    parser = CommandParser(
        "plan",
        "Say whether a run fits into memory, before it starts.\n\n"
        "It reads the configuration of `fit`, with all of its options, and of the policy only config.json: no\n"
        "weights, no data and no GPU are needed. Training is tracked on fake devices, which takes some seconds;\n"
        "sampling is arithmetic. Where the run does not fit, changes are printed with which it does. The exit code\n"
        "is 0 if it fits, 1 if not, and 2 for bad input.",
        [
            "plan --config rence",
            "plan --config rence --config hardware/gpu1 --model.policy Qwen/Qwen3-1.7B --gpu_memory 80",
            "plan --config own --config hardware/gpu1_lora --gpu_memory 24",
        ],
        epilogue="All other options are those of `fit`: fit --help explains them.",
    )
    parser.add_argument(
        "--gpu_memory",
        type=float,
        metavar="GB",
        help="memory of each GPU in 10^9 bytes (default: that of the GPU of this machine, else 80); for a run on CPUs, "
        "that of the machine (default: this machine's)",
    )
    chosen, of_fit = parser.parse_known_args(arguments)
    if chosen.gpu_memory is not None and not chosen.gpu_memory > 0:
        raise UserError(f"plan: --gpu_memory is {chosen.gpu_memory:g}; it must be > 0, in GB")
    settings = Settings(of_fit)
    from rence_lightning.cli.lightning_cli import read_config
    from rence_lightning.planning import advice, on_gpu, plan_of
    from rence_lightning.planning.report import table, verdict

    config = read_config("fit", settings)
    gigabytes, origin = _memory(chosen.gpu_memory, on_gpu(config["trainer"]))
    plan = plan_of(config, 1e9 * gigabytes)
    print(table(plan, str(config["model"]["policy"]), origin), flush=True)
    print(verdict(plan), flush=True)
    if plan.fits:
        return
    found = False
    for change in advice(plan):
        if not found:
            print("It fits with any one of these changes:")
        found = True
        print(f"  {change}", flush=True)
    if not found:
        print("No change of these was found to be enough: fewer tokens, more GPUs, main memory, adapters.")
    sys.exit(1)


def _memory(given: float | None, gpu: bool) -> tuple[float, str]:
    """Memory of a device in GB, and where the number comes from."""
    if given is not None:
        return given, "--gpu_memory"
    if not gpu:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, "this machine's"
    import torch

    if torch.cuda.is_available():
        properties: Any = torch.cuda.get_device_properties(0)
        return properties.total_memory / 1e9, f"this machine's {properties.name}"
    return PAPER_GPU, "assumed, because this machine has no GPU; --gpu_memory sets it"
