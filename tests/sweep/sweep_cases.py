"""Outcomes and runs for the tests of sweeps."""

import json

from siamese.sweep.outcome import Outcome


def outcome(number, overrides, linear=0.5, knn=0.4, error=None, **summary):
    """An outcome whose summary has these figures."""
    found = {"linear_top1": linear, "knn_top1": knn, "train_seconds": 10.0, "images_per_second": 100.0,
             "peak_memory_mb": 800.0, "epochs": 4, "seed": 0, "finished": True, **summary}  # fmt: skip
    return Outcome(number, overrides.split(), None if error else f"s/{number:02d}", None if error else found, error)


def seeds(setting, values, first=0):
    """One outcome a value of linear top-1, with seeds from 0."""
    return [outcome(first + i, f"{setting} seed={i}", value) for i, value in enumerate(values)]


def files(folder):
    """The outcomes that a sweep has written."""
    return [json.loads(f.read_text()) for f in sorted((folder / "trials").glob("*.json"))]
