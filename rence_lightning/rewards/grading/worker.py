"""The grading process: it reads one pair of texts per line on stdin and writes one grade per line on stdout.

`GraderPool` starts it as `python -m rence_lightning.rewards.grading.worker MEMORY_BYTES CPU_SECONDS JUDGE`, where JUDGE
is `rules`, `math_verify` or `gym`. Requests are `[gold, answer]`. Replies are `[grade, retire]`, after a first `null`.
JSON's ASCII escapes carry every string, lone surrogates and NUL included.
"""

import contextlib
import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def serve(requests: BinaryIO, replies: BinaryIO, memory_bytes: int, cpu_seconds: float, name: str) -> None:
    """Answers requests until the parent closes the pipe, or until this process has grown to half of its memory limit.

    A process near its limit would fail on harmless answers and call them wrong, so it asks to be replaced first.
    """
    from rence_lightning.rewards.grading.guard import forbid_effects

    judge = _load_judge(name)
    null = os.open(os.devnull, os.O_WRONLY)  # parsers print about broken LaTeX, which would fill the file of errors
    os.dup2(null, 1)
    os.dup2(null, 2)
    forbid_effects()
    replies.write(b"null\n")
    retire = False
    while not retire and (line := requests.readline()):
        # The kernel ends this process after so many seconds of its CPU time. A Python handler would be delayed by
        # arithmetic on huge integers, and a parent may have died.
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        grade = float(judge(*json.loads(line)))
        signal.setitimer(signal.ITIMER_PROF, 0)
        retire = _address_space() > memory_bytes // 2
        replies.write(json.dumps([grade, retire]).encode("ascii") + b"\n")


def _load_judge(name: str) -> Callable[[str, str], float]:
    """Imports a judge of two texts, and keeps the text of answers from being executed in this process.

    The parsers are loaded too, because this would otherwise count as CPU time of the first answer.
    """
    if name == "gym":
        from rence_lightning.rewards.gym import load_judge

        return load_judge()
    from rence_lightning.rewards.grading.equivalence import equivalent, plain_math_verify
    from rence_lightning.rewards.grading.guard import forbid_execution

    if not equivalent("1/2", "0.5"):
        raise RuntimeError("math-verify does not hold 1/2 and 0.5 for equal: is its antlr4 runtime installed?")
    forbid_execution()
    return {"rules": equivalent, "math_verify": plain_math_verify}[name]


def _address_space() -> int:
    """Bytes mapped by this process, or 0 where the system does not report them."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (OSError, ValueError):
        return 0


def _limit_memory(memory_bytes: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
    # Some systems (macOS) refuse a limit of the address space; grading goes on with the limit of CPU time alone.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """Runs a worker with the two limits and the judge that the command line gives."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    # The limit of CPU time must hold even where the parent ignores or blocks its signal.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
    memory_bytes, cpu_seconds, judge = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # a library's `print` must not come between the replies
    logging.disable(logging.CRITICAL)
    _limit_memory(memory_bytes)
    try:
        serve(sys.stdin.buffer, replies, memory_bytes, cpu_seconds, judge)
    except BrokenPipeError:  # the parent has ended
        os._exit(0)


if __name__ == "__main__":
    main()
