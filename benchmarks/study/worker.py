"""A run in a process of its own, forked from one that has imported the packages already: it starts in a moment."""

import importlib
import json
import os
import resource
import sys
from pathlib import Path

IMPORTED = ("rence_lightning.cli.lightning_cli", "rence_lightning.callbacks", "rence_lightning.rollouts.transformers")


def run(arguments: list[str], folder: str) -> None:
    """Trains, with the output in `FOLDER/log.txt`, and writes `FOLDER/ended.json`: exit code and CPU seconds.

    Processor time of the process and of the grading processes that it has ended is counted from its start, without the
    imports that it shares with others.
    """
    log = os.open(Path(folder) / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    import torch

    from rence_lightning.cli.main import run as command

    torch.set_num_threads(1)
    code = command(["fit", *arguments])
    sys.stdout.flush()
    sys.stderr.flush()
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds = sum(each.ru_utime + each.ru_stime for each in used)
    (Path(folder) / "ended.json").write_text(json.dumps({"code": code, "cpu_seconds": round(seconds, 1)}))


for name in IMPORTED if __name__ == "benchmarks.study.worker" else ():
    importlib.import_module(name)
