"""Makes the task `words`, one-step word problems, and the policy of the tasks `words` and `sums`.

The problems are those of MAWPS, ASDiv and SVAMP that have a solution by the rule of `benchmarks.word_problems`, are
short, and have an answer below 1,000. Of problems that differ in numbers only, one is taken, so that none is evaluated
whose variant was trained on. The policy is SmolLM2-135M-Instruct after a warm start on 150 of them and 150 sums, in
which it learns to write the calculation, or the result, and to stop; no split has these 300.
"""

import json
import os
import random
import re
from pathlib import Path

from benchmarks.word_problems import NUMBER, solution
from rence_lightning import warmup

POLICY = "smollm2-warmup/hf"
SIZES = {"solutions": 150, "train": 500, "validation": 100, "test": 150}
LONGEST = 160
"""Largest number of characters of a problem."""

TEMPLATE = {"text": "{problem}\n", "chat": False}


def splits(data: Path) -> dict[str, list[dict[str, str]]]:
    """The word problems of each split in a fixed random order."""
    found: dict[str, dict[str, str]] = {}
    for name in ("mawps", "asdiv", "svamp"):
        for line in (data / "easy" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            text, answer = row["problem"], row["answer"]
            if len(text) <= LONGEST and re.fullmatch(r"\d{1,3}", answer) and (solved := solution(text, answer)):
                without_numbers = re.sub(r"\W+", " ", NUMBER.sub("#", text).lower())
                kept = {"id": row["id"], "problem": text, "answer": answer, "solution": solved.partition("\n")[0]}
                found.setdefault(without_numbers, kept)
    rows = list(found.values())
    random.Random(0).shuffle(rows)
    return {split: [{**rows.pop(), "split": split} for _ in range(size)] for split, size in SIZES.items()}


def make(folder: Path) -> None:
    """Writes the word problems and the policy into the folder of the problems: minutes on one core."""
    for split, rows in splits(Path(os.environ.get("RENCE_DATA", "data"))).items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"words-{split}.jsonl").write_text(text, encoding="utf-8")
    sources = [
        {"class_path": "FileProblems", "init_args": {"path": str(folder / f"{task}-solutions.jsonl")}}
        for task in ("words", "sums")
    ]
    warmup(
        config="conf/smollm2.yaml",
        run_dir=str(folder / "smollm2"),
        epochs=1,
        learning_rate=2e-5,
        data={"problems": sources, "template": TEMPLATE},
        evaluation={"every": 0, "benchmarks": None},
    )
