"""Run folders and parsed pages for the tests of reports."""

import csv
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import yaml

from siamese.pages.pictures import thumbnail

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
CONFIG = {
    "method": {"name": "simclr", "temperature": 0.5}, "data": {"name": "digits", "path": None, "crop": 8},
    "backbone": {"name": "small"}, "epochs": 4, "batch_size": 64, "seed": 0,
    "optimizer": {"lr": 0.1, "weight_decay": 0.0}, "trainer": {"precision": "32-true"}, "run_dir": "r",
}  # fmt: skip
SUMMARY = {
    "method": "simclr", "data": "digits", "epochs": 4, "steps": 40, "seconds": 9.0, "train_seconds": 8.0,
    "images_per_second": 1234.5, "knn_top1": 0.9, "linear_top1": 0.95,
    "baselines": {"raw_pixels": {"knn_top1": 0.97, "linear_top1": 0.8}}, "collapsed_at_epoch": None,
    "versions": {"torch": "2.14"}, "device": "cpu", "finished": True,
}  # fmt: skip


def write_run(folder: Path, config=None, summary=None, rows=None, stored=None) -> Path:
    """A run folder with 4 epochs of 10 steps."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({**CONFIG, **(config or {})}))
    if summary is not False:
        (folder / "summary.json").write_text(json.dumps({**SUMMARY, **(summary or {})}))
    if rows is None:
        rows = [{"step": i, "loss": 5 - 0.3 * i + 0.5 * (-1) ** i, "lr": 0.1 / (1 + i)} for i in range(4, 40, 5)]
        for epoch in range(1, 5):
            rows.append({"step": 10 * epoch, "epoch": epoch, "knn_top1": 0.5 + 0.1 * epoch, "feature_rank": 3.0 * epoch,
                         "online_linear_top1": 0.3 + 0.1 * epoch, "projection_std": 1 - 0.1 * epoch})  # fmt: skip
            rows.append({"step": 10 * epoch, "epoch": epoch, "images_per_second": 1000.0 + epoch})
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with (folder / "metrics.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)
    if stored is not None:
        (folder / "report.json").write_text(json.dumps(stored))
    return folder


def stored_gallery(label: str = "three") -> dict:
    """The content of a report.json with two pictures, a query and a map."""
    pictures = [thumbnail(np.full((8, 8, 3), value, np.uint8)) for value in (0, 255)]
    near = [{"picture": 1, "label": label, "same": same, "similarity": 0.5} for same in (True, False)]
    return {
        "state": "finished", "epoch": 4, "epochs": 4, "steps_per_epoch": 10, "pictures": pictures, "of": "Of one.",
        "overrides": ["method=simclr", "run_dir=r"], "settings": {"method": f"simclr {label}"},
        "queries": [{"picture": 0, "label": label, "before": near[1:], "after": near[:1]}],
        "map": {"way": "PCA", "before": [[0, 0], [1, 1]], "after": [[0, 1], [1, 0]], "groups": [0, 1],
                "classes": [label, "four"]},
    }  # fmt: skip


class Page(HTMLParser):
    """Elements of a page: (tag, attributes), texts, and the text of each heading's charts."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag, **wanted):
        found = (attributes for t, attributes in self.elements if t == tag)
        return [a for a in found if all(a.get(k) == v for k, v in wanted.items())]

    @property
    def text(self):
        return " ".join(self.texts)

    def lines(self, title):
        """Points of each line of the chart with this title, in the numbers of its axes."""
        start = next(i for i, (t, a) in enumerate(self.elements) if t == "svg" and a.get("aria-label") == title)
        x0, x1, left, right = map(float, self.elements[start][1]["data-x"].split())
        y0, y1, bottom, top = map(float, self.elements[start][1]["data-y"].split())
        out = []
        for tag, attributes in self.elements[start + 1 :]:
            if tag == "svg":
                break
            if tag == "path" and attributes.get("class", "").startswith("line"):
                out.append([
                    (x0 + (float(x) - left) / (right - left) * (x1 - x0),
                     y0 + (float(y) - bottom) / (top - bottom) * (y1 - y0))
                    for x, y in re.findall(r"[ML](\S+?) ([-\d.]+)", attributes["d"])
                ])  # fmt: skip
        return out
