"""`examples/minimal.py`: ReNCE in one file learns, and stays short enough to be read at once."""

import importlib.util
from pathlib import Path

FILE = Path(__file__).parent.parent / "examples" / "minimal.py"


def test_the_example_learns_in_one_screen_of_code() -> None:
    specification = importlib.util.spec_from_file_location("minimal", FILE)
    assert specification is not None and specification.loader is not None
    minimal = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(minimal)
    before, after = minimal.train(iterations=4)
    assert after > before + 0.1
    assert len(FILE.read_text().splitlines()) <= 150
