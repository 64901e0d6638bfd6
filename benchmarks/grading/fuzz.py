"""`python -m benchmarks.grading.fuzz`: hostile answers through the grader: does it hang, crash, grow, or run code?"""

import random
import resource
import tempfile
import time
from pathlib import Path

from jsonargparse import CLI

from benchmarks.grading.pairs import Pair, read_pairs
from rence_lightning.rewards.grading.pool import GraderPool

BATCH = 500
PIECES = [
    *("1", "23", "7.5", "0", "-", "+", "*", "/", "^", "x", "y", "n", "e", "i", "=", "<", ">", ",", " ", "_", "!", "!!"),
    *(r"\le ", r"\ge ", r"\ne ", r"\pm ", r"\times 10^{", r"\cdot ", r"\cup ", r"\infty", r"\pi", r"\in ", r"\circ"),
    *("(", ")", "[", "]", "{", "}", r"\{", r"\}", r"\left(", r"\right)", r"\text{ or }", r"\text{ cm}", r"\text{"),
    *(r"\frac{", r"\frac12", r"\sqrt{", r"\sqrt[3]{", r"\log ", r"\sin ", r"\sum_{i=1}^{100}", r"\int_0^1 ", r"\lim "),
    *(r"\begin{pmatrix}", r"\end{pmatrix}", "&", "\\\\", r"\boxed{", "$", r"\$", "%", r"\%", "°", "√", "½", "é", "\0"),
    *("9^{9^9}", "10^{10^{10}}", "100000!", "9" * 400, "{" * 60, r"\frac{1}{" * 20, "\ud835", "and", "or", "None"),
]
"""Pieces of ordinary answers, and pieces that break parsers."""

CODE = (
    "__import__('os').system('touch {file}')",
    "exec(\"open('{file}','w')\")",
    "().__class__.__base__.__subclasses__()[0]('{file}')",
    r"\text{{__import__('pathlib').Path('{file}').touch()}}",
    "lambda: open('{file}', 'w')",
    "\\sum_{{n=1}}^{{\\infty}} \\frac{{1}}{{n^3+\\overline{{)\r{characters}\r(}}}}",
    "\\text{{)\r{characters}\r(}}+\\sum_{{n=0}}^{{\\infty}} \\frac{{\\hat{{)\f{characters}\f(}}^n}}{{n!}}",
)
"""Code that makes a file where something executes it. `characters` is such code without quotes, which math-verify
removes; sympy compiled it as the name of a symbol in a sum."""


def fuzz(answers: int = 100_000, workers: int = 2, timeout: float = 1.0, seed: int = 0) -> None:
    """Judges random answers that are made of hostile pieces, or of labelled answers that are cut or mixed.

    Args:
        answers: Number of answers.
        workers: Number of grading processes.
        timeout: Seconds of CPU time for an answer.
        seed: Seed of the random answers.
    """
    rng, pairs = random.Random(seed), list(read_pairs())
    with tempfile.TemporaryDirectory() as folder, GraderPool(workers, timeout) as pool:
        trap = Path(folder) / "trap"
        start, slowest, before = time.perf_counter(), 0.0, 0.0
        for done in range(0, answers, BATCH):
            batch = [_pair(rng, pairs, str(trap)) for _ in range(min(BATCH, answers - done))]
            begun = time.perf_counter()
            verdicts = pool.grade(batch)
            slowest = max(slowest, time.perf_counter() - begun)
            assert len(verdicts) == len(batch) and all(verdict in (0.0, 1.0) for verdict in verdicts)
            assert not trap.exists(), "an answer was executed"
            before = before or _memory()
        each = 1e3 * (time.perf_counter() - start) / answers
        print(
            f"{answers:,} answers: {each:.1f} ms each on {workers} workers, the slowest {BATCH} took {slowest:.1f} s, "
            f"{pool.timeouts} over {timeout:g} s of CPU time, {pool.crashes} crashed workers, peak memory of this "
            f"process {before:.0f} -> {_memory():.0f} MB, no code was run"
        )


def _pair(rng: random.Random, pairs: list[Pair], trap: str) -> tuple[str, str]:
    gold = rng.choice(pairs).gold
    kind = rng.random()
    if kind < 0.5:
        return gold, "".join(rng.choice(PIECES) for _ in range(rng.randrange(1, 16)))
    if kind < 0.55:
        characters = f"open({'+'.join(f'chr({ord(letter)})' for letter in trap)},chr(119))"
        return gold, rng.choice(CODE).format(file=trap, characters=characters) + rng.choice(
            (*PIECES, *[""] * len(PIECES))
        )
    answer = rng.choice(pairs).prediction
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(answer) + 1)
        change = rng.random()
        if change < 0.4:
            answer = answer[:at] + rng.choice(PIECES) + answer[at:]
        elif change < 0.7:
            answer = answer[:at] + answer[min(len(answer), at + rng.randrange(1, 4)) :]
        else:
            answer = answer[:at] + answer[rng.randrange(len(answer) + 1) :]
    return gold, answer


def _memory() -> float:
    """Peak of this process's memory in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


if __name__ == "__main__":
    CLI(fuzz, as_positional=False)
