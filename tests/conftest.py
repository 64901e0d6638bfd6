"""Settings of all tests."""

import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# Times differ between machines, and from run to run on a busy one.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
# Tiny tensors gain nothing from threads, and lose much where other work runs beside.
torch.set_num_threads(1)


@pytest.fixture
def data_folder() -> Path:
    """Real benchmarks and training sets, which are not part of the project."""
    folder = Path(os.environ.get("RENCE_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}; set RENCE_DATA to the folder with eval/ and train/")
    return folder


@pytest.fixture(autouse=True)
def no_arguments_of_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning's command line looks at `sys.argv` besides the arguments it is given."""
    monkeypatch.setattr(sys, "argv", ["rence_lightning"])
