"""A folder of digits with several labels each, for tests."""

import csv

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

NAMES = ["large", "none", "odd", "prime"]  # sorted, as the classes are
SETTINGS = ("data=folder", "data.crop=8", "data.size=8", "data.channels=1", "data.resident=true", "backbone=small",
            "augment_scale=small", "batch_size=32")  # fmt: skip


def labels_of(digit):
    """Of a digit, its names."""
    found = {"large": digit > 4, "odd": digit % 2 == 1, "prime": digit in (2, 3, 5, 7)}
    return [name for name in NAMES if found.get(name)] or ["none"]


def write_folder(folder, count=240):
    """Write images and a CSV, every fourth in the test part, every tenth (of the training part) without a label.

    Returns:
        Overrides, and part -> (pixels (N, 64) in [0, 1], targets (N, K)) of the labelled images.
    """
    digits = load_digits()
    (folder / "images").mkdir(parents=True)
    parts = {"train": ([], [], []), "test": ([], [], [])}
    with (folder / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "label", "part"])
        for i in range(count):
            part, pixels = "test" if i % 4 == 3 else "train", (digits.images[i] * 15).astype(np.uint8)
            names = [] if i % 10 == 0 else labels_of(int(digits.target[i]))
            Image.fromarray(pixels).save(folder / "images" / f"{i:04d}.png")
            table.writerow([f"{i:04d}.png", ";".join(names), part])
            if names:
                x, y, files = parts[part]
                x.append(pixels.ravel() / 255)
                y.append([name in names for name in NAMES])
                files.append(f"{i:04d}.png")
    overrides = (*SETTINGS, f"data.path={folder / 'images'}", f"data.labels={folder / 'labels.csv'}")
    return overrides, {p: (np.array(x), np.array(y), files) for p, (x, y, files) in parts.items()}
