"""Charts of single points as inline SVG: a figure against a setting."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from siamese.pages.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, limits, number, scale, ticks
from siamese.pages.html import text

FEW = 30  # values of one setting beyond which names of the axis are left out
WIDE = 30.0  # ratio of the largest to the smallest number from which the axis is logarithmic


@dataclass(frozen=True)
class Point:
    """One point.

    Args:
        x: the setting as typed.
        y: the figure.
        told: shown under the mouse.
        best: whether it is stressed.
    """

    x: str
    y: float
    told: str
    best: bool = False


def point_chart(title: str, points: Sequence[Point], y_name: str) -> str:
    """A chart; the horizontal axis is numeric if every setting is a number, logarithmic over wide ranges of positive
    numbers, else it has a place for each setting. Points whose figure is not finite are left out."""
    points = [p for p in points if math.isfinite(p.y)]
    if not points:
        return ""
    numbers = [_number(p.x) for p in points]
    if all(v is not None for v in numbers):
        values = [v for v in numbers if v is not None]
        log = min(values) > 0 and math.log10(max(values)) - math.log10(min(values)) >= math.log10(WIDE)
        x_axis, places = _numeric(values, log), [math.log10(v) if log else v for v in values]
    else:
        names = list(dict.fromkeys(p.x for p in points))
        x_axis, places = _named(names), [float(names.index(p.x)) for p in points]
    (x0, x1), marks = x_axis
    y0, y1 = limits([p.y for p in points], 0.06)
    to_x, to_y = scale(x0, x1, LEFT, RIGHT), scale(y0, y1, BOTTOM, TOP)
    parts = []
    for value in ticks(y0, y1):
        parts.append(f'<path class="grid" d="M{LEFT} {to_y(value):.2f}H{RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{to_y(value) + 4:.2f}" text-anchor="end">{number(value)}</text>')
    for place, name in marks:
        parts.append(f'<path class="axis" d="M{to_x(place):.2f} {BOTTOM}v4"/>')
        parts.append(f'<text x="{to_x(place):.2f}" y="{BOTTOM + 15}" text-anchor="middle">{text(name)}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {BOTTOM}H{RIGHT}"/>')
    parts.append(f'<text x="{(LEFT + RIGHT) / 2:g}" y="{HEIGHT - 3}" text-anchor="middle">{text(title)}</text>')
    for place, point in sorted(zip(places, points, strict=True), key=lambda both: both[1].best):
        look = f'class="point c{1 if point.best else 0}" r="{5 if point.best else 3.6}"'
        parts.append(
            f'<circle {look} cx="{to_x(place):.2f}" cy="{to_y(point.y):.2f}"><title>{text(point.told)}</title></circle>'
        )
    return (
        f'<figure class="chart"><h3>{text(y_name)}</h3>\n'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(y_name)} against {text(title)}">\n'
        + "\n".join(parts)
        + "\n</svg></figure>"
    )


def _number(value: str) -> float | None:
    try:
        found = float(value)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def _numeric(values: Sequence[float], log: bool) -> tuple[tuple[float, float], list[tuple[float, str]]]:
    """Limits of the axis and its marks; of a logarithmic axis in powers of ten."""
    ends = limits([math.log10(v) for v in values] if log else values, 0.06)
    if not log:
        return ends, [(v, number(v)) for v in ticks(*ends, about=6)]
    powers = range(math.ceil(ends[0]), math.floor(ends[1]) + 1)
    return ends, [(float(p), number(10.0**p)) for p in powers]


def _named(names: Sequence[str]) -> tuple[tuple[float, float], list[tuple[float, str]]]:
    room = max(4, 62 // len(names))  # characters below the axis
    shown = [n if len(n) <= room else n[: room - 1] + "…" for n in names]
    return (-0.5, len(names) - 0.5), [(float(i), n) for i, n in enumerate(shown)] if len(names) <= FEW else []
