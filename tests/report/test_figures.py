"""The parts of the figures that can be computed: smoothing, tables, descriptions, and what is left out."""

import re

import numpy as np
import pytest

from rence_lightning.report.figures import FEWEST, RAW, ROWS, WIDTH, Plot, line_plot, smoothed, stacked_plot

LONG = [(float(x), 0.5 + 0.4 * (-1) ** x) for x in range(1, 101)]


def plot(**lines: list[tuple[float, float]]) -> Plot:
    drawn = line_plot("title", "caption", lines, "iteration")
    assert drawn is not None
    return drawn


@pytest.mark.parametrize("window", [1, 3, 7])
def test_smoothing_is_the_moving_mean(window: int) -> None:
    values = np.random.default_rng(0).normal(size=40)
    means = np.array(smoothed(values.tolist(), window))
    half = window // 2
    inner = np.convolve(values, np.ones(window) / window, mode="valid")
    assert means[half : 40 - half] == pytest.approx(inner)
    assert means[0] == pytest.approx(values[: half + 1].mean())
    assert means[-1] == pytest.approx(values[39 - half :].mean())


def paths(svg: str) -> list[tuple[str, int]]:
    """Opacity and number of points of each line of data."""
    drawn = re.findall(r'<path d="([^"]*)"[^>]*clip-path[^>]*style="([^"]*)"', svg)
    opacities = [re.search(r"stroke-opacity: ([\d.]+)", style) for _, style in drawn if "fill: none" in style]
    counts = [len(re.findall("[ML]", d)) for d, style in drawn if "fill: none" in style]
    return [(found[1] if found else "1", count) for found, count in zip(opacities, counts, strict=True) if count > 2]


def test_a_long_series_is_smoothed_above_its_faint_raw_values() -> None:
    opacities = [opacity for opacity, _ in paths(plot(a=LONG).svg)]
    assert opacities == ["0.4", "1"]
    assert [opacity for opacity, _ in paths(plot(a=LONG[: RAW - 1]).svg)] == ["1"]


def test_the_table_has_the_first_and_the_last_value_and_not_too_many_rows() -> None:
    drawn = plot(a=LONG, b=LONG[50:])
    assert drawn.headings == ["iteration", "a", "b"]
    assert drawn.rows[0] == ["1", "0.1", ""] and drawn.rows[-1] == ["100", "0.9", "0.9"]
    assert len(drawn.rows) <= ROWS + 1
    assert drawn.summary.startswith("a: from 0.1 at iteration 1 to 0.9 at iteration 100, lowest 0.1, highest 0.9. b:")


def test_lines_without_points_enough_and_figures_of_zeros_are_left_out() -> None:
    assert line_plot("", "", {"a": LONG[: FEWEST - 1]}, "iteration") is None
    assert line_plot("", "", {"a": [(x, 0.0) for x, _ in LONG]}, "iteration") is None
    assert plot(a=LONG, b=LONG[:1]).headings == ["iteration", "a"]
    assert stacked_plot("", "", {"a": LONG[:1]}, ["green"], "iteration", percent=False) is None


def test_orders_of_magnitude_have_a_logarithmic_axis_with_labels_of_full_size() -> None:
    svg = plot(a=[(float(x), 10.0**-x) for x in range(1, 8)]).svg
    assert ">1e-5<" in svg and f'viewBox="0 0 {WIDTH} ' in svg
    assert set(re.findall(r"font(?:-size)?: ([\d.]+)px", svg)) == {"11"}
