"""`python tests/golden/rewrite.py`: writes the golden file from the code as it is."""

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from comparing import GOLDEN, environment, first_difference, read_golden
from recording import record_run


def main() -> None:
    """Runs the demo, prints what changed, and writes the file."""
    with tempfile.TemporaryDirectory() as folder:
        run = record_run(Path(folder) / "run")
    if GOLDEN.exists():
        print(first_difference(read_golden()["run"], run, exact=True) or "no figure changed")
    GOLDEN.write_text(json.dumps({"environment": environment(), "run": run}, indent=1) + "\n", encoding="utf-8")
    print(f"written to {GOLDEN}")


if __name__ == "__main__":
    main()
