"""Nearest neighbours of images, and near-duplicates, by the cosine similarity of their features."""

import csv
import heapq
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor

from siamese.config import to_dict
from siamese.data import some_of
from siamese.data.images import listed
from siamese.files import write
from siamese.handoff.network import Trained
from siamese.handoff.rows import Rows
from siamese.pages import html
from siamese.pages.pictures import thumbnail
from siamese.precision import full_float32
from siamese.training.report import grid, shown_colours

BLOCK = 2048  # rows of a block of similarities
MOST_PAIRS = 10_000  # near-duplicates that are listed, the most similar ones
TILE = 96  # side of a picture, pixels


def show(
    cfg: DictConfig,
    out: Path,
    place: Path,
    trained: Trained,
    rows: Rows,
    features: np.ndarray,
    kept: np.ndarray,
) -> list[str]:
    """Write the pictures and the list beside `out`. Returns lines for the user.

    Args:
        place: the folder into which they will be moved, for these lines.
    """
    (readable,) = np.nonzero(kept)
    if len(readable) < 2:
        return ["neighbours: a single image has none"]
    chosen = readable[some_of(len(readable), cfg.compared, cfg.seed).numpy()]
    x = F.normalize(torch.from_numpy(np.array(features[chosen])), dim=1)
    lines = []
    if len(chosen) < len(readable):
        lines.append(f"neighbours: among {len(chosen):,} of {len(readable):,} images, a seeded choice (compared=)")
    queries = some_of(len(x), cfg.queries, cfg.seed)
    similarity, places = nearest(x, queries, min(cfg.nearest, len(x) - 1))
    picture, page = (out.with_name(f"{out.name}.neighbours.{kind}") for kind in ("png", "html"))
    shown = [[int(chosen[i]) for i in (q, *near)] for q, near in zip(queries.tolist(), places.tolist(), strict=True)]
    tiles = [thumbnails(trained, rows, row) for row in shown]
    grid(tiles, [f"{s[0]:.3f}" for s in similarity.tolist()], TILE).save(picture)
    names = [f"{split}: {name}" for name, split, _ in rows.each()]
    captions = [[names[row] for row in one] for one in shown]
    write(page, as_page(out.name, tiles, captions, similarity.tolist()))
    lines.append(f"neighbours: {place / page.name}, {place / picture.name}; the left picture of a row is the query")
    pairs = near_duplicates(x, cfg.duplicates)
    file = out.with_name(f"{out.name}.duplicates.csv")
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["similarity", "first", "second"])
        writer.writerows([f"{s:.6f}", names[chosen[i]], names[chosen[j]]] for s, i, j in pairs)
    most = f"the {MOST_PAIRS:,} most similar" if len(pairs) == MOST_PAIRS else f"{len(pairs):,}"
    lines.append(f"near-duplicates: {most} pairs of similarity {cfg.duplicates:g} or more: {place / file.name}")
    return lines


@full_float32()
def nearest(x: Tensor, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(similarities, rows) (Q, count) of the most similar other rows.

    Args:
        x: (N, D) of unit length.
        queries: (Q,) rows.
    """
    similarity = x[queries] @ x.T
    similarity.scatter_(1, queries.unsqueeze(1), -torch.inf)
    found = similarity.topk(count, 1)
    return found.values, found.indices


@full_float32()
def near_duplicates(x: Tensor, least: float) -> list[tuple[float, int, int]]:
    """(similarity, i, j), i < j, of the pairs of rows that are at least so similar: the MOST_PAIRS most similar ones,
    the most similar first.

    Args:
        x: (N, D) of unit length.
    """
    found: list[tuple[float, int, int]] = []
    for start in range(0, len(x), BLOCK):
        for other in range(start, len(x), BLOCK):
            similarity = x[start : start + BLOCK] @ x[other : other + BLOCK].T
            if start == other:
                similarity = similarity.triu(1)
            i, j = (similarity >= least).nonzero(as_tuple=True)
            if start == other:
                i, j = i[i < j], j[i < j]
            values = similarity[i, j]
            if len(values) > MOST_PAIRS:
                values, top = values.topk(MOST_PAIRS)
                i, j = i[top], j[top]
            new = zip(values.tolist(), (i + start).tolist(), (j + other).tolist(), strict=True)
            found = heapq.nsmallest(MOST_PAIRS, [*found, *new], key=lambda pair: (-pair[0], *pair[1:]))
    return found


def thumbnails(trained: Trained, rows: Rows, at: list[int]) -> Tensor:
    """(B, 3, h, w) in [0, 1]: the images of rows, whole, as their store keeps them."""
    pictures = []
    for row in at:
        store, place = rows.image(row)
        (image,) = listed(store.read(torch.tensor([place])).images)
        levels = trained.view.levels(image.to(trained.view.mean.device)).float().cpu() / 255
        pictures.append(shown_colours(levels.clamp(0, 1), to_dict(trained.cfg.data).get("show")))
    side = max(p.shape[-1] for p in pictures)
    return torch.cat([F.interpolate(p, size=(side, side), mode="nearest") for p in pictures])


def as_page(title: str, tiles: list[Tensor], captions: list[list[str]], similarity: list[list[float]]) -> str:
    """A page of queries, each with its neighbours, their names and similarities.

    Args:
        tiles: of each query (1 + K, 3, h, w), itself first.
        captions: names of these pictures.
        similarity: (Q, K).
    """
    body = [f"<h1>{html.text(title)}</h1>", html.note("Nearest neighbours by the cosine similarity of the features.")]
    for pictures, names, near in zip(tiles, captions, similarity, strict=True):
        cells = []
        for picture, name, told in zip(pictures, names, ["query", *(f"{s:.3f}" for s in near)], strict=True):
            pixels = (picture.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
            cells.append(
                f'<figure><img src="{thumbnail(pixels)}" alt="{html.text(name)}" width="{TILE}">'
                f"<figcaption>{html.text(told)}<br>{html.text(name)}</figcaption></figure>"
            )
        body.append(f'<div class="neighbour-row">{"".join(cells)}</div>')
    return html.page(title, body)
