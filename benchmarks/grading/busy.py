"""`python -m benchmarks.grading.busy`: grades the labelled pairs on an idle machine and beside busy processes."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jsonargparse import ArgumentParser

from benchmarks.grading.pairs import LABELLED, read_pairs
from rence_lightning.rewards.grading.pool import GraderPool

TOWER = ("3", "9^{9^{9^9}}")
"""A pair that no grader finishes, so that the limit of time is reached in both runs."""


def busy(processes: int = 8, workers: int = 2, timeout: float = 1.0, file: Path = LABELLED) -> None:
    """Compares the labels of the grader on an idle machine with those beside busy processes.

    Every pair is judged in a worker, without cache and shortcuts. One more pair, a tower of powers, runs out of time.

    Args:
        processes: Number of busy processes, each a pure Python loop.
        workers: Number of grading processes.
        timeout: Seconds of CPU time for an answer.
        file: Labelled pairs.
    """
    pairs = list(read_pairs(file))
    questions = [(pair.gold, pair.prediction) for pair in pairs] + [TOWER]
    print(f"{len(pairs)} labelled pairs and one tower, {workers} workers, {timeout:g} s of CPU time each")
    runs = []
    for loops in (0, processes):
        with GraderPool(workers, timeout) as pool, running(loops):
            pool.grade_in_workers([("1/2", "0.5"), ("1/3", "2/6")])  # starts the workers
            load, begin = os.getloadavg()[0], time.perf_counter()
            runs.append(pool.grade_in_workers(questions))
            seconds = time.perf_counter() - begin
            right = sum(bool(label) == pair.same for label, pair in zip(runs[-1], pairs, strict=False))
            print(
                f"{loops} busy processes on {os.cpu_count()} CPUs (load before {load:.1f}): {seconds:.1f} s, "
                f"{right} labels as by hand, {pool.timeouts} timeouts, {pool.crashes} crashes"
            )
    idle, loaded = runs
    different = [index for index in range(len(questions)) if idle[index] != loaded[index]]
    print(f"labels that differ: {len(different)} of {len(questions)}")
    for index in different:
        print("  {}  ##  {}".format(*questions[index]), f"idle {idle[index]}, busy {loaded[index]}")


@contextmanager
def running(count: int) -> Iterator[None]:
    """So many busy processes during the block; exactly these are ended after it."""
    # Each in a session of its own, as the workers are: Linux shares processor time among sessions first.
    command = [sys.executable, "-c", "while True: pass"]
    loops = [subprocess.Popen(command, start_new_session=True) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def main() -> None:
    parser = ArgumentParser(description=busy.__doc__)
    parser.add_function_arguments(busy)
    busy(**parser.parse_args().as_dict())


if __name__ == "__main__":
    main()
