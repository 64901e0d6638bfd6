r"""No text of an answer is executed. The guard cannot be undone, so that each test works in a process of its own.

sympy compiles the names of symbols when it sums a series numerically, and `\overline{...}` makes a symbol of any
characters: `IN_A_NAME` is an answer that runs a program of its own where nothing prevents it.
"""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from rence_lightning.rewards.grading.pool import GraderPool, Judge

GOLD = r"1+\sqrt{2}"
"""An irrational reference, for which math-verify evaluates the answer numerically."""

MAKE_FILE = "open(" + "+".join(f"chr({ord(letter)})" for letter in "trap") + ",chr(119))"
"""Python that makes the file `trap` in the current directory, in characters that survive math-verify's rewriting."""

IN_A_NAME = r"\sum_{n=1}^{\infty} \frac{1}{n^3+\overline{)" + "\r" + MAKE_FILE + "\r" + "(}}"
HOSTILE = [
    IN_A_NAME,
    IN_A_NAME.replace("\r", "\u2028"),
    IN_A_NAME.replace(r"\overline", r"\hat"),
    rf"\gcd(6,{IN_A_NAME})",
    rf"\sum_{{n=0}}^{{\infty}} \frac{{1}}{{n^4+1+n\overline{{if({MAKE_FILE})else\t0}}}}",
    rf"\sum_{{n=1}}^{{\infty}} \frac{{1}}{{n^3+x_{{{MAKE_FILE}}}}}",
    rf"\sum_{{n=1}}^{{\infty}} \frac{{1}}{{n^3+\variable{{{MAKE_FILE}}}}}",
    rf"\operatorname{{exec}}({MAKE_FILE})",
    rf"\text{{{MAKE_FILE}}}",
    f"(1+2)/3+{MAKE_FILE}",
    f"final answer is {MAKE_FILE}",
    MAKE_FILE,
    MAKE_FILE.replace("open", "__import__('os').system"),
]


def run(script: str, cwd: Path) -> str:
    """Run a program that has imported the grader, and return what it prints."""
    head = "from rence_lightning.rewards.grading.equivalence import equivalent, plain_math_verify\n"
    head += "assert equivalent('1/2', '0.5')\n"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", head + textwrap.dedent(script)]
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


GUARD = "from rence_lightning.rewards.grading.guard import forbid_effects, forbid_execution; forbid_execution()\n"


def test_sympy_executes_the_answer_without_the_guard(tmp_path: Path) -> None:
    """If this fails after an upgrade, the other tests of this file no longer show anything."""
    run(f"plain_math_verify({GOLD!r}, {IN_A_NAME!r})", tmp_path)
    assert (tmp_path / "trap").exists()


def test_the_guard_executes_no_answer(tmp_path: Path) -> None:
    script = f"for answer in {HOSTILE!r}:\n    assert not JUDGE({GOLD!r}, answer), answer\n"
    for judge in ("equivalent", "plain_math_verify"):
        run(GUARD + script.replace("JUDGE", judge), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("judge", ["rules", "math_verify"])
def test_workers_execute_no_answer(judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with GraderPool(workers=1, judge=judge) as pool:
        assert not any(pool.grade_in_workers([(r"1.6 \pm 0.05", answer) for answer in HOSTILE]))
        assert pool.crashes == 0
    assert list(tmp_path.iterdir()) == []


def test_numbers_are_still_evaluated_and_nothing_else(tmp_path: Path) -> None:
    script = """
import sympy

print(sympy.Number("1.5") == 1.5, sympy.sympify("(1+2)*-3/4"), float(sympy.sympify("2e3")) == 2000)
for text in ("abs(-2)", "x+1", "().real", "'a'", "[1]", "1;2", "lambda: 0", "1if 1else 2", "a.b", "9e", "1\\n2j"):
    try:
        print("evaluated", text, repr(sympy.sympify(text)))
    except ValueError:
        pass
"""
    assert run(GUARD + script, tmp_path) == "True -9/4 True"


def test_series_of_numbers_are_still_summed(tmp_path: Path) -> None:
    script = r"""
print(equivalent(r"0.7854 \pm 0.0001", r"\sum_{n=0}^{\infty} \frac{(-1)^n}{2n+1}"))
print(equivalent(r"0.7854 \pm 0.0001", r"\sum_{n=0}^{\infty} \frac{(-1)^n}{2n+3}"))
"""
    assert run(GUARD + script, tmp_path).split() == ["True", "False"]


def test_a_worker_changes_nothing_outside(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("as it was")
    script = """
import os, pathlib, shutil, socket, subprocess

forbid_effects()
attempts = {
    "open": lambda: open("made", "w"),
    "os.open": lambda: os.open("made", os.O_CREAT | os.O_WRONLY),
    "remove": lambda: os.remove("kept"),
    "rename": lambda: pathlib.Path("kept").rename("made"),
    "mkdir": lambda: os.mkdir("made"),
    "system": lambda: os.system("touch made"),
    "Popen": lambda: subprocess.Popen(["touch", "made"]),
    "posix_spawn": lambda: os.posix_spawn("/bin/touch", ["touch", "made"], {}),
    "fork": os.fork,
    "connect": lambda: socket.create_connection(("127.0.0.1", 9)),
    "kill": lambda: os.kill(os.getppid(), 0),
}
for name, attempt in attempts.items():
    try:
        attempt()
        print("allowed", name)
    except PermissionError:
        pass
print(open("kept").read())
"""
    assert run(GUARD + script, tmp_path) == "as it was"
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
