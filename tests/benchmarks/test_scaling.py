"""What an iteration costs as its sizes grow: exponents on known laws, and one point for real."""

import pytest

from benchmarks.scaling.__main__ import growth, section
from benchmarks.scaling.point import Point, minima, run
from benchmarks.versus_trl.timing import IterationTime


def test_growth_is_the_exponent_of_a_power_law() -> None:
    sizes = [1, 2, 4, 8]
    assert growth(sizes, [3.0 * size**2 for size in sizes]) == pytest.approx(2)
    assert growth(sizes, [0.5] * 4) == pytest.approx(0)
    assert growth(sizes, [0.001, 0.002, 0.004, 0.008]) is None, "milliseconds say nothing"


def test_a_section_shows_each_part_and_its_growth() -> None:
    one = {"generate": 0.5, "reward": 0.0, "log-probs": 0.1, "train": 1.0, "total": 2.0}
    two = {name: 2 * seconds for name, seconds in one.items()}
    lines = section("prompts", (4, 8), [one, two]).splitlines()
    assert lines[2] == "| 4 | 0.500 | 0.000 | 0.100 | 1.000 | 2.000 |"
    assert lines[4] == "| growth | 1.00 |  | 1.00 | 1.00 | 1.00 |"


def test_minima_are_of_each_part() -> None:
    parts = {"generate": 1.0, "reward": 0.0, "log-probs": 0.5, "train": 2.0}
    times = [IterationTime(4.0, parts, (), 0), IterationTime(3.5, {**parts, "generate": 0.8, "train": 2.5}, (), 0)]
    assert minima(times) == {"generate": 0.8, "reward": 0.0, "log-probs": 0.5, "train": 2.0, "total": 3.5}


def test_all_responses_of_a_point_have_its_length() -> None:
    point = Point(prompts=2, group_size=2, response_tokens=5, prompt_tokens=4, vocabulary=16, hidden=32, layers=1)
    (measured,) = run(point, iterations=1)
    assert measured.response_tokens == 2 * 2 * 5
    assert [len(prompt) for prompt in measured.prompts] == [4, 4]
