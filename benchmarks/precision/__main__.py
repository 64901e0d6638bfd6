"""`python -m benchmarks.precision`: the study's parts as commands."""

import sys

from jsonargparse import CLI

from benchmarks.precision.movement import movement
from rence_lightning.errors import UserError


def main() -> None:
    try:
        CLI({"movement": movement}, as_positional=False)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
