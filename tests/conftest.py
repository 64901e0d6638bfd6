"""Settings of all tests."""

import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# Times differ between machines, and between runs on a busy machine, so that no example has a deadline.
settings.register_profile("fast", deadline=None, max_examples=20)
settings.register_profile("thorough", deadline=None)
settings.load_profile("fast")
# Threads do not speed up computations on tiny tensors, and slow them down a lot if other jobs share the machine.
torch.set_num_threads(1)


@pytest.fixture
def data_folder() -> Path:
    """The folder of real benchmarks and training sets, which are not part of the project."""
    folder = Path(os.environ.get("RENCE_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}; set RENCE_DATA to the folder with eval/ and train/")
    return folder


@pytest.fixture(autouse=True)
def no_arguments_of_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces `sys.argv`, which Lightning's command line reads in addition to the arguments that it is given."""
    monkeypatch.setattr(sys, "argv", ["rence_lightning"])
