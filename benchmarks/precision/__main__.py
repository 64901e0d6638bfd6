"""`python -m benchmarks.precision`: the study's parts as commands."""

import sys

from jsonargparse import CLI

from benchmarks.precision.learning import learning
from benchmarks.precision.movement import movement
from benchmarks.precision.report import report
from benchmarks.study.runner import RunFailed
from rence_lightning.errors import UserError


def main() -> None:
    try:
        CLI({"movement": movement, "learning": learning, "report": report}, as_positional=False)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except RunFailed as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
