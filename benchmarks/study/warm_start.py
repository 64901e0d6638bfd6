"""Makes the task `words`, one-step word problems, and the policy of the tasks `words` and `sums`.

The problems are those of MAWPS, ASDiv and SVAMP that have a solution by the rule of `benchmarks.word_problems`, are
short, and have an answer below 1,000. These collections share problems and their variants, so one is left out that has
seven tenths of its words in common with another. The policy is SmolLM2-135M-Instruct after a warm start on 150 problems
and 150 sums that are in no other split, in which it learns to write the calculation, or the result, and to stop.
"""

import json
import os
import random
import re
import shutil
from pathlib import Path

from benchmarks.word_problems import NUMBER, solution
from rence_lightning import warmup
from rence_lightning.errors import UserError

POLICY = "smollm2-warmup/hf"
SIZES = {"solutions": 150, "test": 150, "validation": 100, "train": 380}
LONGEST, SIMILAR = 160, 0.7
"""Largest number of characters of a problem, and share of common words from which two problems are variants."""

TEMPLATE = {"text": "{problem}\n", "chat": False}


def splits(data: Path) -> dict[str, list[dict[str, str]]]:
    """The word problems of each split in a fixed random order; a `UserError` where there are too few."""
    found: dict[str, dict[str, str]] = {}
    for name in ("mawps", "asdiv", "svamp"):
        file = data / "easy" / f"{name}.jsonl"
        if not file.exists():
            raise UserError(f"{file}: no such file; RENCE_DATA names the folder that has easy/{name}.jsonl")
        for row in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
            text, answer = row["problem"], row["answer"]
            if len(text) <= LONGEST and re.fullmatch(r"\d{1,3}", answer) and (solved := solution(text, answer)):
                kept = {"id": row["id"], "problem": text, "answer": answer, "solution": solved.partition("\n")[0]}
                found.setdefault(re.sub(r"\W+", " ", NUMBER.sub("#", text).lower()), kept)
    rows, seen = list(found.values()), list[set[str]]()
    random.Random(0).shuffle(rows)
    parts: dict[str, list[dict[str, str]]] = {split: [] for split in SIZES}
    while rows and (split := next((each for each, size in SIZES.items() if len(parts[each]) < size), "")):
        row = rows.pop()
        words = set(re.findall("[a-z]+", row["problem"].lower()))
        if split == "solutions" or all(len(words & each) < SIMILAR * len(words | each) for each in seen):
            seen.append(words)
            parts[split].append({**row, "split": split})
    if any(len(parts[split]) < size for split, size in SIZES.items()):
        raise UserError(
            f"{data / 'easy'}: it has {len(seen)} problems of one step, and {sum(SIZES.values())} are needed"
        )
    return parts


def write_words(folder: Path) -> None:
    """Writes the word problems of `RENCE_DATA` into the folder of the problems."""
    for split, rows in splits(Path(os.environ.get("RENCE_DATA", "data"))).items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"words-{split}.jsonl").write_text(text, encoding="utf-8")


def make_policy(folder: Path) -> None:
    """Makes the policy, unless it is there: minutes on one core."""
    if (folder / POLICY / "README.md").exists():  # the last file of an export
        return
    shutil.rmtree(folder / "smollm2-warmup", ignore_errors=True)
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
