"""The example of docs/method.md compares an implementation with the test vectors."""

import re

import pytest
from command_line import ROOT

(EXAMPLE,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "method.md").read_text(encoding="utf-8"), re.S)


def test_the_example_accepts_an_equal_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    exec(EXAMPLE, {})


@pytest.mark.parametrize(("right", "wrong"), [("1e-6", "1e-4"), ("1.2", "1.28"), ("/ len(losses)", "/ 12")])
def test_the_example_refuses_another(right: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another epsilon or range of clipping, or a mean that counts responses that were left out."""
    monkeypatch.chdir(ROOT)
    with pytest.raises(AssertionError, match="not close"):
        exec(EXAMPLE.replace(right, wrong), {})
