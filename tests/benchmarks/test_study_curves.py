"""The points and lines of the figures, against values that are known at every update."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from command_line import ROOT

from benchmarks.study import curves
from benchmarks.study.results import Outcome, Point
from benchmarks.study.runs import Runs
from benchmarks.study.spec import load_spec

TABLE1 = load_spec(ROOT / "benchmarks" / "study" / "table1.yaml")


def run(responses: int, updates: int, iterations: int, method: str = "ReNCE", seed: int = 20) -> Outcome:
    """A run of iterations of so many responses and updates, whose accuracy grows by a hundredth with each update."""
    spent = [(responses * n, updates * n) for n in range(1, iterations + 1)]
    training = [
        {"responses": r, "updates": u, "cpu_seconds": 10.0 * u, "correct": 0.2 + 0.01 * (u - updates)} for r, u in spent
    ]
    ends = [Point(n, u, r, 10.0 * u, 0.2 + 0.01 * u) for n, (r, u) in enumerate(spent, start=1)]
    label: dict[str, Any] = {"study": "tables", "task": "sums", "learning_rate": 1e-5, "split": "test"}
    return Outcome(**label, method=method, seed=seed, start=0.2, curve=ends[-1:], training=training)


@pytest.mark.parametrize(("responses", "updates", "iterations"), [(64, 1, 16), (160, 4, 5), (300, 4, 3)])
def test_points_lie_on_the_line_of_a_policy_that_grows_evenly(responses: int, updates: int, iterations: int) -> None:
    outcome = run(responses, updates, iterations)
    for panel in curves.PANELS[:6]:
        scale = {"responses": updates / responses, "updates": 1, "cpu_seconds": 0.1}[panel.x]
        points = np.array(curves.series(outcome, panel))
        np.testing.assert_allclose(points[:, 1], 0.2 + 0.01 * points[:, 0] * scale)
        assert len(points) >= 2


def test_a_seed_that_ended_early_goes_on_with_its_last_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {20: run(256, 4, 8), 21: run(256, 4, 2, seed=21)}
    runs = Runs(TABLE1, [])
    monkeypatch.setattr(runs, "of", lambda cell: found if cell.method == "ReNCE" else {})
    lines: list[np.ndarray[Any, Any]] = []
    monkeypatch.setattr("matplotlib.axes.Axes.plot", lambda axes, x, y, **kinds: lines.append(np.array([x, y])))
    curves.draw(runs, "sums", tmp_path / "figures" / "sums.svg")
    x, y = lines[0]
    assert (x[0], x[-1]) == (0, 2048) and np.all(np.diff(x) > 0)
    late = x > 512
    np.testing.assert_allclose(y[late], 20 + (x[late] * 4 / 256 + 8) / 2)
    assert ElementTree.parse(tmp_path / "figures" / "sums.svg").getroot().tag.endswith("svg")
