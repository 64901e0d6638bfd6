"""A connection between the processes of a run, independent of the collectives, that reports the failure of a rank.

A collective may not notice that a process has ended: gloo's sockets do, but NCCL waits until its timeout, which may be
hours. Therefore every rank holds a TCP connection to a hub in rank 0. A failing rank announces its error there, and the
operating system closes the connection of a process that dies. The hub notifies the other ranks; if they do not agree on
the failure in time (see `distributed.agree_on`), it ends all processes and prints the cause once, as the last line.
"""

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener, Pipe, wait
from typing import Any, cast

GRACE_SECONDS = 30.0
"""Time for all ranks to agree on an announced failure before the hub ends them."""

END_SECONDS = 3.0
"""Time for a rank to end at the request of the hub before the hub kills it (if it is on the hub's machine)."""


@dataclass(frozen=True)
class Failure:
    """The error that a rank ended with.

    Attributes:
        rank: Number of the rank.
        kind: Name of the error's class.
        message: Message of the error, in one line.
        text: Text to print: the message, with a traceback where there is one.
        code: Exit code of the run.
    """

    rank: int
    kind: str
    message: str
    text: str
    code: int = 1


def lost(rank: int) -> Failure:
    """The failure of a rank whose connection was closed before it had finished."""
    message = (
        f"rank {rank} ended without an error message: it was killed, perhaps because the machine ran out of memory; "
        "continue with --ckpt_path last"
    )
    return Failure(rank, "RankLost", message, f"error: {message}")


class Lifeline:
    """This rank's end of the connection, and on rank 0 the hub.

    Args:
        rank: Number of this rank.
        world: Number of ranks.
        exchange: Collective that gives the values of all ranks, in the order of the ranks, to every rank.
        host: Address of rank 0's machine.
    """

    def __init__(self, rank: int, world: int, exchange: Callable[[Any], list[Any]], host: str = "127.0.0.1") -> None:
        self.rank = rank
        self.failed = threading.Event()
        self._closing = False
        if rank == 0:
            self._hub = _Hub(world, self.failed, host)
            exchange((self._hub.port, self._hub.key))
            self._connection = self._hub.own
        else:
            port, key = exchange(None)[0]
            self._connection = Client((host, port), authkey=bytes.fromhex(key))
            _send(self._connection, {"rank": rank, "host": socket.gethostname(), "pid": os.getpid()})
            self._watcher = threading.Thread(target=self._watch, name="lifeline", daemon=True)
            self._watcher.start()

    def announce(self, failure: Failure, grace: float = GRACE_SECONDS) -> None:
        """Reports this rank's failure to the others; after `grace` seconds without agreement, the hub ends them all."""
        _send(self._connection, {"failure": asdict(failure), "grace": grace})

    def agreed(self) -> None:
        """Reports that all ranks know of the failure and end by themselves, so that the hub need not end them."""
        if self.rank == 0:
            _send(self._connection, {"agreed": True})

    def close(self) -> None:
        """Reports that this rank has finished, and waits until all have; a launcher may end all when one exits."""
        self._closing = True
        _send(self._connection, {"finished": True})
        (self._hub.thread if self.rank == 0 else self._watcher).join(GRACE_SECONDS)

    def _watch(self) -> None:
        """Reads the messages of the hub, on ranks other than 0."""
        while True:
            try:
                message = _receive(self._connection)
            except (EOFError, OSError):
                if not self._closing:
                    _end(lost(0).text if self.rank == 1 else "", 1)
                return
            if "end" in message:
                _end("", message["end"])
            self.failed.set()


class _Hub:
    """The hub in rank 0 that all ranks are connected to, rank 0 itself through a pipe."""

    def __init__(self, world: int, failed: threading.Event, host: str) -> None:
        self.key = os.urandom(16).hex()
        self._listener = Listener(("", 0) if host not in ("127.0.0.1", "localhost") else (host, 0), backlog=world,
                                  authkey=bytes.fromhex(self.key))  # fmt: skip
        self.port = int(self._listener.address[1])
        self.own, mine = Pipe()
        self._ranks: dict[Connection, int] = {mine: 0}
        self._processes: dict[int, tuple[str, int]] = {}
        self._finished: set[int] = set()
        self._failed = failed
        self._failure: Failure | None = None
        self._deadline: float | None = None
        self._agreed = False
        self._world = world
        self.thread = threading.Thread(target=self._serve, name="lifeline-hub", daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        while len(self._ranks) < self._world:
            try:
                connection = self._listener.accept()
                hello = _receive(connection)
            except (AuthenticationError, EOFError, OSError):  # not a rank of this run
                continue
            self._ranks[connection] = hello["rank"]
            self._processes[hello["rank"]] = (hello["host"], hello["pid"])
        self._listener.close()
        while self._ranks and len(self._finished) < self._world:
            left = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
            for ready in wait(list(self._ranks), left):
                self._handle(cast(Connection, ready))
            if self._deadline is not None and time.monotonic() >= self._deadline:
                self._end_all()
        for connection in self._ranks:
            connection.close()

    def _handle(self, connection: Connection) -> None:
        """Handles a message of a rank, or the end of its connection."""
        rank = self._ranks[connection]
        try:
            message = _receive(connection)
        except (EOFError, OSError):
            del self._ranks[connection]
            if rank not in self._finished:
                self._fail(lost(rank), grace=0.0)
            return
        if "finished" in message:
            self._finished.add(rank)
        elif "agreed" in message:
            self._deadline, self._agreed = None, True
        elif not self._agreed:  # an announcement may arrive after the agreement on it
            self._fail(Failure(**message["failure"]), message["grace"])

    def _fail(self, failure: Failure, grace: float) -> None:
        deadline = time.monotonic() + grace
        self._deadline = deadline if self._deadline is None else min(self._deadline, deadline)
        if self._failure is not None:
            return  # later failures are consequences of the first
        self._failure = failure
        self._failed.set()
        for connection, rank in self._ranks.items():
            if rank not in (0, failure.rank):
                _send(connection, {"failed": failure.rank})

    def _end_all(self) -> None:
        """Ends every process of the run, this one last, and prints the cause."""
        assert self._failure is not None
        others = {connection: rank for connection, rank in self._ranks.items() if rank != 0}
        for connection in others:
            _send(connection, {"end": self._failure.code})
        until = time.monotonic() + END_SECONDS
        while others and (left := until - time.monotonic()) > 0:
            for ready in wait(list(others), left):
                with suppress(EOFError, OSError):
                    _receive(cast(Connection, ready))
                    continue
                del others[cast(Connection, ready)]
        for rank in others.values():  # these processes are suspended, or blocked in the kernel
            host, pid = self._processes[rank]
            if host == socket.gethostname():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        _end(self._failure.text, self._failure.code)


def _send(connection: Connection, message: dict[str, Any]) -> None:
    with suppress(OSError):  # the other end has closed, which the thread that reads this connection notices
        connection.send_bytes(json.dumps(message).encode())


def _receive(connection: Connection) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(connection.recv_bytes())
    return message


def _end(text: str, code: int) -> None:
    """Ends this process at once, even if its other threads are waiting."""
    try:
        sys.stdout.flush()
        if text:
            print(text, file=sys.stderr, flush=True)
    finally:  # also where nobody reads the output any more
        os._exit(code)
