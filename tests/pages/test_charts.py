"""Charts: what is drawn are the numbers."""

import math
import random
from itertools import pairwise

import pytest
from pages.page_cases import Page

from siamese.pages.charts import Line, kind, line_chart, scatter_map, thinned, ticks


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, 1e-4), (1e-9, 3e-9), (5, 5e6), (-1e300, 1e300), (99.9, 100)])
def test_ticks_are_round_and_inside(low, high):
    found = ticks(low, high)
    assert 2 <= len(found) <= 12
    steps = {f"{b - a:.6e}" for a, b in pairwise(found)}
    assert len(steps) == 1
    assert steps.pop()[0] in "125"
    assert all(low - 1e-6 * (high - low) <= t <= high + 1e-6 * (high - low) for t in found)


def test_path_holds_the_numbers():
    x, y = [0.5, 1, 2.5, 4], [3.0, -1.5, 1e-3, 7]
    (line,) = Page(line_chart("loss", [Line("a", x, y)])).lines("loss")
    assert line == [pytest.approx(point, abs=0.03) for point in zip(x, y, strict=True)]


def test_line_breaks_where_a_value_is_not_finite():
    chart = line_chart("loss", [Line("a", range(5), [1, 2, math.nan, math.inf, 3])])
    (path,) = Page(chart).all("path", **{"class": "line c0 d0"})
    assert path["d"].count("M") == 2
    assert path["d"].count("L") == 1
    assert "2 values are not finite" in chart
    assert line_chart("loss", [Line("a", [1], [math.nan])]) == ""
    assert line_chart("loss", []) == ""


@pytest.mark.parametrize("y", [[0.0], [7.0, 7.0], [1e308, -1e308], [1e-320, 2e-320], [5e15, 5e15 + 1]])
def test_extreme_values_are_drawn(y):
    (line,) = Page(line_chart("loss", [Line("a", range(1, len(y) + 1), y)])).lines("loss")
    assert len(line) == len(y)
    assert all(math.isfinite(value) for point in line for value in point)


def test_long_lines_keep_their_extremes():
    values = [random.Random(0).gauss(0, 1) for _ in range(50_000)]
    values[31_337], values[40_000] = 99.0, -99.0
    kept = thinned(values)
    assert {0, 31_337, 40_000, 49_999} <= set(kept)
    assert len(kept) <= 602
    assert kept == sorted(kept)
    chart = line_chart("loss", [Line("a", range(50_000), values)])
    assert len(chart) < 40_000
    (line,) = Page(chart).lines("loss")
    assert max(y for _, y in line) == pytest.approx(99, abs=1)


def test_classes_of_a_map_look_different():
    assert len({kind(i) for i in range(24)}) == 24
    assert kind(-1) not in {kind(i) for i in range(24)}
    square = scatter_map("m", [(0, 0), (2, 0), (0, 1)], None, [])
    circles = Page(square).all("circle")
    places = [(float(c["cx"]), float(c["cy"])) for c in circles]
    assert places[1][0] - places[0][0] == pytest.approx(2 * (places[0][1] - places[2][1]))  # one scale for both axes
