"""The grading process: reads a pair of answers a line on stdin, writes a verdict a line on stdout.

Started by `GraderPool` as `python -m rence_lightning.rewards.grading.worker MEMORY_BYTES SECONDS`. Requests are
`{"gold": ..., "prediction": ...}`, replies `{"equal": ..., "retire": ...}`, after a first `{"ready": true}`. JSON's
ASCII escapes carry any string there is, lone surrogates and NUL included.
"""

import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any, BinaryIO


def _protect_stdout() -> BinaryIO:
    """Take the protocol's pipe away from descriptor 1, so that a library's `print` cannot corrupt it."""
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    return replies


def _limit_resources(memory_bytes: int) -> None:
    try:
        import resource
    except ImportError:  # not a POSIX system: the limit of time still holds
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
    # Some systems (macOS) refuse a limit of the address space; grading goes on under the limit of time alone.
    try:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (OSError, ValueError):
        return


def _silence() -> None:
    """Send what the parsers print about broken LaTeX nowhere: the parent would collect megabytes of it."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.close(null)


def _address_space() -> int:
    """Bytes mapped by this process, 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


def _arm(seconds: float) -> None:
    """Have the kernel end this process after `seconds`, 0 for never.

    The parent kills an overrun sooner. This is for the orphan: a worker whose parent died during a judgement reads no
    end of file before the judgement ends, which may take years. No Python handler, so that nothing can swallow it.
    """
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def serve(requests: BinaryIO, replies: BinaryIO, memory_bytes: int, seconds: float) -> None:
    """Answer requests until the parent closes the pipe, or until this process has grown to half of its memory limit.

    A process near its limit would fail on harmless answers and call them wrong, so it asks to be replaced first.
    """
    from rence_lightning.rewards.grading.equivalence import equivalent

    if not equivalent("1/2", "0.5"):  # loads the parsers, outside of the time limit of the first answer
        raise RuntimeError("math-verify does not hold 1/2 and 0.5 for equal: is its antlr4 runtime installed?")
    _silence()
    _send(replies, {"ready": True})
    for line in requests:
        request = json.loads(line)
        _arm(seconds)
        equal = equivalent(request["gold"], request["prediction"])
        _arm(0)
        retire = _address_space() > memory_bytes // 2
        _send(replies, {"equal": equal, "retire": retire})
        if retire:
            return


def _send(replies: BinaryIO, message: dict[str, Any]) -> None:
    replies.write(json.dumps(message).encode("ascii") + b"\n")


def main() -> None:
    """Run a worker with the two limits given on the command line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    memory_bytes, seconds = int(sys.argv[1]), float(sys.argv[2])
    replies = _protect_stdout()
    logging.disable(logging.CRITICAL)
    _limit_resources(memory_bytes)
    try:
        serve(sys.stdin.buffer, replies, memory_bytes, seconds)
    except BrokenPipeError:  # the parent is gone
        os._exit(0)


if __name__ == "__main__":
    main()
