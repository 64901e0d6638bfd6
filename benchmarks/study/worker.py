"""A run in a process of its own, forked from one that has imported the packages already: it starts in a moment."""

import importlib
import json
import os
import resource
import sys
import time
from pathlib import Path

IMPORTED = ("rence_lightning.cli.build", "rence_lightning.callbacks", "rence_lightning.rollouts.transformers")
ENDED = "ended.json"


def fit(arguments: list[str], folder: str) -> None:
    """Trains, with the output in `FOLDER/log.txt`, and writes `FOLDER/ended.json`: its CPU seconds, those on the clock,
    and the message of a run that starved or diverged, which is a result too. After any other error the process ends
    without that file.

    Processor time of the process and of the grading processes that it has ended is counted from its start, without the
    imports that it shares with others.
    """
    log = os.open(Path(folder) / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    import torch

    from rence_lightning.cli.commands import find_command
    from rence_lightning.errors import NonFiniteError, StarvationError, exit_code, explanation, one_line

    torch.set_num_threads(1)
    begin, result = time.perf_counter(), ""
    try:
        find_command(["fit"])(arguments)
    except (StarvationError, NonFiniteError) as error:
        result = one_line(error)
    except BaseException as error:
        print(explanation(error), file=sys.stderr, flush=True)
        os._exit(exit_code(error))
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu_seconds = round(sum(each.ru_utime + each.ru_stime for each in used), 1)
    seconds = round(time.perf_counter() - begin, 1)
    ended = {"error": result, "cpu_seconds": cpu_seconds, "wall_seconds": seconds}
    (Path(folder) / ENDED).write_text(json.dumps(ended), encoding="utf-8")


for name in IMPORTED if __name__ == "benchmarks.study.worker" else ():
    importlib.import_module(name)
