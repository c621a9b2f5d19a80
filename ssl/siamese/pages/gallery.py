"""Nearest neighbours and maps of the features, from what report.json holds."""

from collections.abc import Sequence

from siamese.pages import html
from siamese.pages.charts import SHOWN_CLASSES, map_legend, scatter_map
from siamese.pages.html import text
from siamese.pages.stored import FeatureMap, Near, Query, Stored


def neighbours(stored: Stored) -> list[str]:
    """Queries with their neighbours before and after the training."""
    if not stored.queries:
        return []
    small = all(uri.startswith("data:image/png") for uri in stored.pictures)
    cells = ['<span class="head">query</span><span class="head">before training</span>'
             '<span class="head">after training</span>']  # fmt: skip
    for i, query in enumerate(stored.queries, 1):
        cells.append(f'<div class="query">{thumbs(stored, [query], f"query {i}")}')
        for when, near in (("before", query.before), ("after", query.after)):
            cells.append(f'<div><span class="phone">{when} training</span>')
            cells.append(f"{thumbs(stored, near, f'query {i}, {when}')}</div>")
        cells.append("</div>")
    look = "neighbours small" if small else "neighbours"
    return [html.note(agreement(stored.queries)), f'<div class="{look}">{"".join(cells)}</div>']


def agreement(queries: Sequence[Query]) -> str:
    """How many neighbours have the query's label."""
    before, after = ([n.same for q in queries for n in side(q)] for side in (lambda q: q.before, lambda q: q.after))
    if None in (*before, *after) or not after:
        return "Neighbours by cosine similarity of the features, the nearest first."
    return (
        "Neighbours by cosine similarity of the features, the nearest first. With the query's label (✓, full frame): "
        f"{sum(map(bool, before))} of {len(before)} before, {sum(map(bool, after))} of {len(after)} after training."
    )


def thumbs(stored: Stored, shown_ones: Sequence[Near | Query], what: str) -> str:
    """A row of small pictures."""
    figures = []
    for one in shown_ones:
        same = one.same if isinstance(one, Near) else None
        look = {True: "same", False: "other", None: ""}[same]
        sign = {True: "✓ ", False: "✗ ", None: ""}[same]
        hint = one.label + (f", similarity {one.similarity:.2f}" if isinstance(one, Near) else "")
        figures.append(
            f'<figure class="{look}" title="{text(hint)}"><img src="{stored.pictures[one.picture]}" '
            f'alt="{text(f"{what}: {one.label}")}"><figcaption>{sign}{text(one.label)}</figcaption></figure>'
        )
    return f'<div class="thumbs">{"".join(figures)}</div>'


def feature_map(stored: Stored) -> list[str]:
    """Two maps side by side, and which class has which marker."""
    found = stored.map
    if found is None:
        return []
    order, others = shown_classes(found)
    maps = [
        scatter_map(f"{name}{told and f' ({told})'}", points, found.groups, order)
        for name, points, told in (
            ("before training", found.before, found.before_note), ("after training", found.after, found.after_note)
        )
    ]  # fmt: skip
    legend = map_legend([found.classes[g] for g in order], others) if found.groups is not None else ""
    return [f'<div class="maps">{"".join(maps)}</div>{legend}']


def shown_classes(found: FeatureMap) -> tuple[list[int], int]:
    """The classes with most points, in order of their numbers, and how many others there are."""
    groups: list[int] = found.groups or []
    counts = {g: groups.count(g) for g in set(groups)}
    chosen = sorted(counts, key=lambda g: (-counts[g], g))[:SHOWN_CLASSES]
    return sorted(chosen), len(counts) - len(chosen)


def map_note(stored: Stored) -> str:
    """How the map was made."""
    found = stored.map
    return "" if found is None else f"{len(found.after):,} images; {found.way}"
