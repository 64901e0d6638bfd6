"""One-step word problems with solutions, for the warm start of a small model: `conf/small/word_problems.yaml`.

    RENCE_DATA=/path/to/data python -m benchmarks.word_problems

writes `runs/word_problems.jsonl`. MAWPS (Koncel-Kedziorski et al. 2016) has problems and answers but no solutions. The
rule: a problem that names exactly two numbers, of which exactly one sum, difference, product or quotient is the answer,
has that calculation as its solution, such as `70 - 27 = 43`, and then the boxed answer. Other problems are left out.
"""

import json
import os
import random
import re
from fractions import Fraction
from pathlib import Path

OUTPUT = Path("runs/word_problems.jsonl")
NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")


def solution(problem: str, answer: str) -> str | None:
    """The calculation and the boxed answer; None where the rule gives none, or several."""
    numbers = [number.replace(",", "") for number in NUMBER.findall(problem)]
    if len(numbers) != 2:
        return None
    (a, b), wanted = map(Fraction, numbers), Fraction(answer)
    first, second = numbers
    results = {
        f"{first} + {second}": a + b,
        f"{first} - {second}": a - b,
        f"{second} - {first}": b - a,
        f"{first} * {second}": a * b,
        **({f"{first} / {second}": a / b} if b else {}),
        **({f"{second} / {first}": b / a} if a else {}),
    }
    found = [calculation for calculation, result in results.items() if result == wanted]
    return f"{found[0]} = {answer}\n\\boxed{{{answer}}}" if len(found) == 1 else None


def main() -> None:
    """Writes the problems that have a solution, in a fixed random order."""
    file = Path(os.environ.get("RENCE_DATA", "data")) / "easy" / "mawps.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    solved = [{**row, "solution": solution(row["problem"], row["answer"])} for row in rows]
    kept = [row for row in solved if row["solution"] is not None]
    random.Random(0).shuffle(kept)
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    print(f"{OUTPUT}: {len(kept)} of {len(rows)} problems")


if __name__ == "__main__":
    main()
