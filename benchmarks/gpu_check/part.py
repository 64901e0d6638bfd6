"""`python -m benchmarks.gpu_check.part FUNCTION SETTINGS FINDINGS`: one part, in the process that runner.py starts."""

import pkgutil
import sys
from pathlib import Path

from benchmarks.gpu_check.findings import Failed, Findings, Skipped
from benchmarks.gpu_check.settings import Settings


def main() -> None:
    function, settings, file = sys.argv[1:]
    findings = Findings(Path(file))
    try:
        pkgutil.resolve_name(function)(Settings.from_json(settings), findings)
    except Skipped as reason:
        findings.skipped_whole = str(reason)
    except Failed as failure:
        findings.failures.append(str(failure))
    findings.finished = True
    findings.save()


if __name__ == "__main__":
    main()
