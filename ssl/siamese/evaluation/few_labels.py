"""Choices of few labels, and folds of them."""

from pathlib import Path

import torch
from torch import Tensor

from siamese.data import Split
from siamese.errors import UserError
from siamese.paths import expand_path


def few(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """Indices of a seeded choice of `fraction` of each class, at least one image. Unknown labels are left out."""
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for label in labels[labels >= 0].unique().tolist():
        members = (labels == label).nonzero().squeeze(1)
        count = max(1, round(fraction * len(members)))
        chosen.append(members[torch.randperm(len(members), generator=generator)[:count]])
    return torch.cat(chosen).sort().values


def folds(labels: Tensor, count: int, seed: int) -> Tensor:
    """The fold (N,) of each sample. The samples of each class, in a seeded order, go to the folds in turn; a class
    starts at the fold after the last one's. The only sample of a class is in no fold (-1): if it were held out, the
    heads would never have seen its class, and the least trained head would be right most often."""
    generator = torch.Generator().manual_seed(seed)
    fold, dealt = torch.full((len(labels),), -1, dtype=torch.int64, device=labels.device), 0
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().squeeze(1)
        if len(members) == 1:
            continue
        members = members[torch.randperm(len(members), generator=generator).to(members.device)]
        fold[members] = (torch.arange(len(members), device=labels.device) + dealt) % count
        dealt += len(members)
    return fold


def names_in(file: str) -> list[str]:
    """The lines of a list of labelled images.

    Raises:
        UserError: there is no such file, or it is not text.
    """
    path = expand_path(file, "eval.lowshot.lists")
    if not path.is_file():
        raise UserError(f"eval.lowshot.lists={file}", "is not a file", f"looked at {path.absolute()}")
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"eval.lowshot.lists={file}", f"is not text ({error})", "give one name a line") from error


def listed(file: str, split: Split) -> Tensor:
    """Indices of the images that a file names, one per line.

    An image is named by its file name, with folders before it if several files have that name. An image of a data set
    without files is named by its number in the training split as published (a published validation split is numbered
    after it).

    Raises:
        UserError: there is no such file, it is empty, or it names an image that does not exist or exists twice.
    """
    names = names_in(file)
    places: dict[str, list[int]] = {}
    files = split.images.names()
    if files is None:
        numbers = range(len(split)) if split.origin is None else split.origin.tolist()
        files = [Path(str(i)) for i in numbers]
    for i, f in enumerate(files):
        places.setdefault(f.name, []).append(i)

    def found(name: str) -> list[int]:
        parts = Path(name).parts
        return [i for i in places.get(parts[-1], []) if files[i].parts[-len(parts) :] == parts]

    chosen = [found(name) for name in names]
    unknown = [name for name, at in zip(names, chosen, strict=True) if not at]
    if unknown or not names:
        what = "is empty"
        if names:
            what = f"names {len(unknown)} of {len(names)} images that are not in the training split: {unknown[0]}"
        raise UserError(f"eval.lowshot.lists={file}", what, "give file names, or indices for sets without files")
    twice = [name for name, at in zip(names, chosen, strict=True) if len(at) > 1]
    if twice:
        raise UserError(
            f"eval.lowshot.lists={file}", f"{twice[0]} is the name of several images", "name the folder too: class/name"
        )
    return torch.tensor(sorted({i for (i,) in chosen}))
