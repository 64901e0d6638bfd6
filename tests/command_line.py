"""The command line, called within the process."""

from pathlib import Path
from typing import Any

import pytest
import yaml

import rence_lightning.cli.lightning_cli  # noqa: F401  Lightning logs to the stderr of its import: not a test's capture
from rence_lightning.cli.main import main

ROOT = Path(__file__).parent.parent
CONF = ROOT / "conf"


def printed_config(capfd: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """The complete configuration that `--print_config` prints."""
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--print_config"])
    output = capfd.readouterr()
    assert end.value.code == 0, output.err
    config: dict[str, Any] = yaml.safe_load(output.out)
    return config
