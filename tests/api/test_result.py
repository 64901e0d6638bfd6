"""What a result shows: the metrics as a table, the curves as a figure, and a view for notebooks."""

import base64
import csv
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from sweep_runs import write_run

from rence_lightning.api.result import Result


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Result]:
    """Two seeds of one learning rate, and one of another."""
    monkeypatch.chdir(tmp_path)
    runs = (("a", 1e-5, 0, [2, 1, 0, 0]), ("b", 1e-5, 1, [1, 1, 0, 0]), ("<c>", 1e-3, 0, [2, 2, 1, 0]))
    policy: Any = None
    return [Result(write_run(Path("runs") / name, *settings), policy) for name, *settings in runs]


def test_metrics_are_a_data_frame_of_the_file(results: list[Result]) -> None:
    with (results[0].run_dir / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    metrics = results[0].metrics
    assert isinstance(metrics, pandas.DataFrame) and list(metrics.columns) == list(rows[0])
    for name in metrics:
        np.testing.assert_allclose(metrics[name], [float(row[name] or "nan") for row in rows], rtol=1e-15)
    assert results[0].curve("iteration/kl") == [(0, 1e-5), (2, 3 * 1e-5)] and results[0].curve("no/such") == []


def test_the_figure_has_a_line_for_a_run_or_for_each_setting(results: list[Result]) -> None:
    shares = [[0, 0.375], [0, 0.25], [0, 0.625]]
    means = [np.mean(shares[:2], axis=0), shares[2]]
    for figure, title, labels, lines in (
        (results[0].plot(), "Accuracy", [], shares[:1]),
        (results[0].plot(*results[1:]), "Accuracy: sums", ["lr 1e-5", "lr 1e-3"], means),
    ):
        assert [part.get_suptitle() for part in figure.subfigs][:2] == [title, "KL"]
        accuracy = figure.axes[0]
        legend = accuracy.get_legend()
        assert ([text.get_text() for text in legend.texts] if legend else []) == labels
        for line, expected in zip(accuracy.lines, lines, strict=True):
            np.testing.assert_allclose(line.get_xydata(), [[0, expected[0]], [2, expected[1]]])


def test_a_notebook_shows_accuracies_curves_and_a_link(results: list[Result]) -> None:
    html = results[2]._repr_html_()
    assert "62.5% (" in html and "href" not in html, "there is no report to link to"
    (results[2].run_dir / "report.html").touch()
    assert 'href="runs/&lt;c&gt;/report.html"' in results[2]._repr_html_()
    assert base64.b64decode(html.partition("base64,")[2].partition('"')[0]).startswith(b"\x89PNG")
