"""Line charts and scatter maps as inline SVG, drawn from lists of numbers. Colours and fonts are the style sheet's."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from siamese.pages.html import text

WIDTH, HEIGHT = 420, 210  # of a line chart, in units of the drawing
LEFT, RIGHT, TOP, BOTTOM = 54, 408, 12, 180  # its plot
COLOURS, DASHES = 7, 4  # the style sheet's; colour-blind people tell these colours apart, and lines by dashes, too
BINS = 300  # of a long line; each keeps its smallest and largest value
HOVERED = 80  # points of a line that show their value under the mouse
SIDE, EDGE = 400, 12  # of a map
SHAPES = ("circle", "square", "triangle", "ring", "cross")
SHOWN_CLASSES = 24  # with a colour and a shape of their own


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Args:
        name: for the legend.
        x, y: its points in order; where y is not finite the line is broken.
        number: chooses colour and dashes.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    number: int = 0

    @property
    def style(self) -> str:
        """Classes of the style sheet."""
        return f"c{self.number % COLOURS} d{self.number // COLOURS % DASHES}"


def line_chart(
    title: str,
    lines: Sequence[Line],
    x_name: str = "epoch",
    levels: Sequence[tuple[float, str]] = (),
    marks: Sequence[tuple[float, str]] = (),
    legend: bool | None = None,
) -> str:
    """A chart with one or several lines; empty if no point is finite.

    Args:
        title: plain text.
        x_name: what the horizontal axis counts.
        levels, marks: dashed horizontal and vertical lines with a word each.
        legend: below the chart; None: if there are several lines.
    """
    lines = [line for line in lines if any(map(math.isfinite, line.y))]
    if not lines:
        return ""
    x0, x1 = limits([0.0] + [x for line in lines for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y)], 0)
    y0, y1 = limits([y for line in lines for y in line.y if math.isfinite(y)], 0.06)
    y0, y1 = min([y0, *(y - 0.05 * (y1 - y) for y, _ in levels)]), max([y1, *(y for y, _ in levels)])
    to_x, to_y = scale(x0, x1, LEFT, RIGHT), scale(y0, y1, BOTTOM, TOP)
    parts = _axes((x0, x1), (y0, y1), x_name)
    for y, told in levels:
        parts.append(f'<path class="mark" d="M{LEFT} {to_y(y):.2f}H{RIGHT}"/>')
        parts.append(f'<text class="told" x="{RIGHT}" y="{to_y(y) - 4:.2f}" text-anchor="end">{text(told)}</text>')
    for x, told in marks:
        if x0 <= x <= x1:
            parts.append(f'<path class="mark" d="M{to_x(x):.2f} {TOP}V{BOTTOM}"/>')
            end = "end" if to_x(x) > (LEFT + RIGHT) / 2 else "start"
            shift = -4 if end == "end" else 4
            parts.append(
                f'<text class="told" x="{to_x(x) + shift:.2f}" y="{TOP + 10}" text-anchor="{end}">{text(told)}</text>'
            )
    for line in lines:
        parts += _drawn(line, to_x, to_y, x_name, len(lines) > 1)
    lost = sum(not math.isfinite(y) for line in lines for y in line.y)
    told = f'<p class="note">{lost:,} values are not finite and not drawn</p>' if lost else ""
    shown = len(lines) > 1 if legend is None else legend
    extent = f'data-x="{x0!r} {x1!r} {LEFT} {RIGHT}" data-y="{y0!r} {y1!r} {BOTTOM} {TOP}"'
    return (
        f'<figure class="chart"><h3>{text(title)}</h3>\n'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(title)}" {extent}>\n'
        + "\n".join(parts)
        + f"\n</svg>{line_legend(lines) if shown else ''}{told}</figure>"
    )


def line_legend(lines: Sequence[Line]) -> str:
    """Which line is which."""
    return (
        '<ul class="legend">'
        + "".join(
            f'<li><svg viewBox="0 0 22 12" aria-hidden="true"><path class="line {line.style}" d="M1 6H21"/></svg>'
            f"{text(line.name)}</li>"
            for line in lines
        )
        + "</ul>"
    )


def thinned(y: Sequence[float], bins: int = BINS) -> list[int]:
    """Indices of the points that a line of many points keeps: of each of `bins` equal parts the smallest and the
    largest value, the values that are not finite, and both ends."""
    n = len(y)
    if n <= 2 * bins:
        return list(range(n))
    kept = {0, n - 1} | {i for i in range(n) if not math.isfinite(y[i])}
    for b in range(bins):
        part = [i for i in range(b * n // bins, (b + 1) * n // bins) if math.isfinite(y[i])]
        if part:
            kept |= {min(part, key=lambda i: y[i]), max(part, key=lambda i: y[i])}
    return sorted(kept)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers within [low, high], in steps of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


def number(value: float) -> str:
    """Four significant digits; thousands with commas."""
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}" if abs(value) >= 1e-12 else "0"


def scatter_map(
    title: str, points: Sequence[Sequence[float]], groups: Sequence[int] | None, order: Sequence[int]
) -> str:
    """A square map of points.

    Args:
        title: plain text.
        points: (x, y) of each.
        groups: class of each point, or None.
        order: the classes that have a colour and a shape of their own, in this order; others are grey.
    """
    if not points:
        return ""
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    half = max(max(xs) - min(xs), max(ys) - min(ys)) / 2 or 1.0  # one scale for both axes
    middle_x, middle_y = (max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2
    to_x = scale(middle_x - half, middle_x + half, EDGE, SIDE - EDGE)
    to_y = scale(middle_y - half, middle_y + half, SIDE - EDGE, EDGE)
    place = {group: i for i, group in enumerate(order)}
    drawn = [
        _marker(to_x(x), to_y(y), *kind(None if groups is None else place.get(groups[i], -1)))
        for i, (x, y) in enumerate(zip(xs, ys, strict=True))
    ]
    return (
        f'<figure class="map"><h3>{text(title)}</h3>\n'
        f'<svg viewBox="0 0 {SIDE} {SIDE}" role="img" aria-label="{text(title)}">\n'
        + "".join(drawn)
        + "\n</svg></figure>"
    )


def kind(place: int | None) -> tuple[int, str]:
    """Colour and shape of the class at `place` of the legend; None: uncoloured, -1: of another class."""
    if place is None:
        return 0, "circle"
    if place < 0:
        return COLOURS - 1, "circle"
    colours = COLOURS - 1  # the last one is grey
    return place % colours, SHAPES[(place // colours + place) % len(SHAPES)]


def map_legend(names: Sequence[str], others: int = 0) -> str:
    """Names of the classes with their markers; how many further classes are grey."""
    entries = [(kind(i), name) for i, name in enumerate(names)]
    if others:
        entries.append((kind(-1), f"{others:,} other classes"))
    return (
        '<ul class="legend">'
        + "".join(
            f'<li><svg viewBox="0 0 22 12" aria-hidden="true">{_marker(11, 6, *how, size=4.5)}</svg>{text(name)}</li>'
            for how, name in entries
        )
        + "</ul>"
    )


def _marker(x: float, y: float, colour: int, shape: str, size: float = 3.6) -> str:
    r = size
    if shape in ("circle", "ring"):
        look = "point" if shape == "circle" else "ring"
        return f'<circle class="{look} c{colour}" cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}"/>'
    if shape == "cross":
        path = f"M{x - r:.1f} {y - r:.1f}L{x + r:.1f} {y + r:.1f}M{x - r:.1f} {y + r:.1f}L{x + r:.1f} {y - r:.1f}"
        return f'<path class="ring c{colour}" d="{path}"/>'
    if shape == "square":
        return (
            f'<rect class="point c{colour}" x="{x - r:.1f}" y="{y - r:.1f}" width="{2 * r:.1f}" height="{2 * r:.1f}"/>'
        )
    path = f"M{x:.1f} {y - 1.25 * r:.1f}L{x + 1.15 * r:.1f} {y + r:.1f}H{x - 1.15 * r:.1f}Z"
    return f'<path class="point c{colour}" d="{path}"/>'


def limits(values: Sequence[float], margin: float) -> tuple[float, float]:
    """Ends of an axis, `margin` of the range beyond the values."""
    low, high = min(values), max(values)
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        room = abs(low) * 0.1 or 1.0
        return low - room, high + room
    room = margin * (high - low)
    if not math.isfinite(high - low + room):  # beyond the range of a float
        return low / 4, high / 4
    return low - room, high + room


def scale(low: float, high: float, start: float, end: float):  # type: ignore[no-untyped-def]
    """The map of an axis from [low, high] to places of the drawing."""
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _axes(x: tuple[float, float], y: tuple[float, float], x_name: str) -> list[str]:
    to_x, to_y = scale(*x, LEFT, RIGHT), scale(*y, BOTTOM, TOP)
    parts = []
    for value in ticks(*y):
        parts.append(f'<path class="grid" d="M{LEFT} {to_y(value):.2f}H{RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{to_y(value) + 4:.2f}" text-anchor="end">{number(value)}</text>')
    for value in ticks(*x, about=6):
        parts.append(f'<path class="axis" d="M{to_x(value):.2f} {BOTTOM}v4"/>')
        parts.append(f'<text x="{to_x(value):.2f}" y="{BOTTOM + 15}" text-anchor="middle">{number(value)}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {BOTTOM}H{RIGHT}"/>')
    parts.append(f'<text x="{(LEFT + RIGHT) / 2:g}" y="{HEIGHT - 3}" text-anchor="middle">{text(x_name)}</text>')
    return parts


def _drawn(line: Line, to_x, to_y, x_name: str, named: bool) -> list[str]:  # type: ignore[no-untyped-def]
    """The path of a line, and points that tell their value."""
    path, finite, pen_up = [], [], True
    for i in thinned(line.y):
        x, y = line.x[i], line.y[i]
        if not math.isfinite(y):
            pen_up = True
            continue
        path.append(f"{'M' if pen_up else 'L'}{to_x(x):.2f} {to_y(y):.2f}")
        finite.append((x, y))
        pen_up = False
    parts = [f'<path class="line {line.style}" d="{"".join(path)}"><title>{text(line.name)}</title></path>']
    every = max(1, math.ceil(len(finite) / HOVERED))
    told = f"{line.name}, " if named else ""
    for i, (x, y) in enumerate(finite):
        centre = f'cx="{to_x(x):.2f}" cy="{to_y(y):.2f}"'
        if len(finite) <= 30:
            parts.append(f'<circle class="dot {line.style}" {centre} r="2.4"/>')
        if i % every == 0 or i == len(finite) - 1:
            hint = text(f"{told}{x_name} {number(x)}: {number(y)}")
            parts.append(f'<circle class="hit" {centre} r="5"><title>{hint}</title></circle>')
    return parts
