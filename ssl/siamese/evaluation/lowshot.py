"""Few labels: linear heads and fine-tuning on a small part of the training labels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from siamese.data import Part
from siamese.data.packed import Packed
from siamese.errors import SEEDS, Stopped, UserError, check_number
from siamese.evaluation.features import Features
from siamese.evaluation.finetune import FineTune
from siamese.evaluation.linear import LinearGrid, LinearResult, Standardised, best_head, head_scores
from siamese.evaluation.statistics import interval
from siamese.evaluation.subject import Subject

FOLDS = 5


@dataclass
class LowShot:
    """A linear head and the whole network, fine-tuned, on few labels, over several choices of these labels.

    Nothing but the few labels chooses: the linear head's setting is the one with the best mean top-1 in a
    cross-validation over five folds of them, the fine-tuning has one setting. Where no class has two labels
    there is nothing to validate with, and the middle of the grid's lists is taken, as results.json says.
    A fine-tuning with several rates or lengths is chosen as in BYOL's paper: by the validation part, which is more
    labels than the few; what is tried has not learned from that part.

    Args:
        fractions: parts of the training labels, each class alike (at least one a class).
        lists: files that name the labelled images in place of fractions, a line each: the file's name
            (as SimCLR's 1percent.txt and 10percent.txt for ImageNet), or the number in the training part as published.
        seeds: of the choices; a list has one choice, and the seeds are those of the training.
        fine_tune: also fine-tune.
        lrs: of the fine-tuning; empty is the first of `FineTune`.
        epochs: of the fine-tuning for each fraction, then for each list; a list of them is tried.
    """

    fractions: Sequence[float]
    lists: Sequence[str]
    seeds: Sequence[int]
    fine_tune: bool
    lrs: Sequence[float]
    epochs: Sequence[int | Sequence[int]]

    def __post_init__(self) -> None:
        for f in self.fractions:
            check_number("eval.lowshot.fractions", f, 0, 1, above=True)
        for n in self.epochs:
            for one in n if isinstance(n, Sequence) and n else [n]:
                check_number("eval.lowshot.epochs", one, 1, whole=True)
        for lr in self.lrs:
            check_number("eval.lowshot.lrs", lr, 0, above=True)
        for seed in self.seeds:
            check_number("eval.lowshot.seeds", seed, 0, SEEDS, whole=True)
        if not isinstance(self.fine_tune, bool):
            raise UserError(f"eval.lowshot.fine_tune={self.fine_tune}", "not known", "choose true or false")
        for key, values in (
            ("seeds", list(self.seeds)),
            ("fractions", list(self.fractions)),
            ("lists", [Path(str(name)).stem for name in self.lists]),
        ):
            if len(set(values)) < len(values):
                raise UserError(f"eval.lowshot.{key}={values}", "holds one of them twice", "name each once")
        for name in self.lists:
            _named(name)
        if not self.seeds or (self.fine_tune and len(self.epochs) != len(self.fractions) + len(self.lists)):
            raise UserError(
                f"eval.lowshot.seeds={list(self.seeds)} eval.lowshot.epochs={list(self.epochs)}",
                "a seed, and one length for each fraction and list, are needed", "give seeds=[0,1,2] epochs=[60,30]",
            )  # fmt: skip

    def evaluate(self, subject: Subject, grid: LinearGrid, tuning: FineTune) -> dict[str, Any]:
        """For each fraction or list: images, and of both ways every seed's top-1, their mean and the half
        width of its 95 % interval, and what was chosen for every seed."""
        out: dict[str, Any] = {}
        whole, part = subject.whole(), subject.all_training(marked=False)
        if len(whole) != len(part):
            raise Stopped(f"{len(part) - len(whole)} images cannot be read; remove them, and few labels can be counted")
        sources: list[tuple[str, float | str]] = [
            *((f"{100 * f:g}%", f) for f in self.fractions),
            *((Path(name).stem, name) for name in self.lists),
        ]
        lengths = self.epochs if self.fine_tune else [0] * len(sources)
        for (name, source), epochs in zip(sources, lengths, strict=True):
            linear, chosen, tuned, taken, count = [], [], [], [], 0
            for seed in self.seeds:
                index = listed(source, part) if isinstance(source, str) else few(part.labels, source, seed)
                count = len(index)
                labelled, classes = whole.subset(index), subject.data.num_classes
                setting = choose(labelled, grid, classes, seed)
                linear.append(grid.score(labelled, subject.features("test"), classes, setting).top1)
                chosen.append(
                    {
                        "lr": setting.lr,
                        "weight_decay": setting.weight_decay,
                        "validation_top1": None if math.isnan(setting.top1) else setting.top1,
                    }
                )
                if self.fine_tune and subject.network is not None:
                    assert subject.data.test is not None
                    best = self._tuning(subject, part, index, tuning, epochs, seed)
                    taken.append(best)
                    lr, length = best["lr"], best["epochs"]
                    tuned.append(tuning.accuracy(subject, part.subset(index), subject.data.test, lr, length, seed))
            out[name] = {"images": count, "linear": {**interval(linear), "chosen": chosen}}
            if tuned:
                out[name]["finetuned"] = {
                    **interval(tuned), "epochs": epochs, "batch_size": min(tuning.batch_size, count), "chosen": taken,
                }  # fmt: skip
        return out

    def _tuning(
        self, subject: Subject, part: Part, few: Tensor, tuning: FineTune, epochs: int | Sequence[int], seed: int
    ) -> dict[str, Any]:
        """The fine-tuning's rate and length; of several the best on the validation part (the end of `part`)."""
        lengths = epochs if isinstance(epochs, Sequence) else [epochs]
        options = [(lr, n) for lr in self.lrs or tuning.lrs[:1] for n in lengths]
        if len(options) == 1:
            return {"lr": options[0][0], "epochs": options[0][1], "validation_top1": None}
        data = subject.data
        rest = few[few < len(data.fit)]
        if len(rest) < 2:
            raise Stopped("the few labels all lie in the validation part; give one rate and length, or another split")
        top1 = [tuning.accuracy(subject, part.subset(rest), data.val, lr, n, seed) for lr, n in options]
        best = top1.index(max(top1))
        return {"lr": options[best][0], "epochs": options[best][1], "validation_top1": top1[best]}


def choose(few: Features, grid: LinearGrid, classes: int, seed: int) -> LinearResult:
    """The setting with the best top-1 over all folds, and this top-1; nan with the middle of the lists where no
    sample can be held out."""
    settings, fold = grid.settings(), folds(few.y, FOLDS, seed)
    held = int((fold >= 0).sum())
    if not held:
        middle = (list(values)[len(values) // 2] for values in (grid.lrs, grid.weight_decays))
        return LinearResult(math.nan, *middle)
    top1, loss = torch.zeros(2, len(settings), device=few.at).unbind()
    for i in fold[fold >= 0].unique().tolist():
        held_out = (fold == i).nonzero().squeeze(1)
        rest = few.subset((fold != i).nonzero().squeeze(1))
        moments = rest.moments()
        weight = grid.train(Standardised(rest, moments), classes, settings)
        score, cost = head_scores(weight, Standardised(few.subset(held_out), moments).blocks())
        top1 += (score * len(held_out)).round()  # whole numbers, so that equals are equal
        loss += cost * len(held_out)
    best = best_head(top1, loss)
    return LinearResult(top1[best].item() / held, *settings[best])


def few(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """Indices of a seeded choice of `fraction` of each class, at least one; unknown labels are left out."""
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for label in labels[labels >= 0].unique().tolist():
        members = (labels == label).nonzero().squeeze(1)
        count = max(1, round(fraction * len(members)))
        chosen.append(members[torch.randperm(len(members), generator=generator)[:count]])
    return torch.cat(chosen).sort().values


def folds(labels: Tensor, count: int, seed: int) -> Tensor:
    """The fold (N,) of each sample: each class dealt out in turn, in a seeded order, one class going on where
    the one before has ended. The only sample of a class is in none (-1): held out, it would leave heads that have
    never seen its class, and the least trained of them would be right most often."""
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


def _named(file: str) -> list[str]:
    """The lines of a list."""
    path = Path(str(file)).expanduser()
    if not path.is_file():
        raise UserError(f"eval.lowshot.lists={file}", "is not a file", f"looked at {path.absolute()}")
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"eval.lowshot.lists={file}", f"is no text ({error})", "give one name a line") from error


def listed(file: str, part: Part) -> Tensor:
    """Indices of the images that a file names, one a line: by their file name, with folders before it where several
    have that name; of sets without files by their number in the
    training part as it was published (a published validation part is counted behind it).

    Raises:
        UserError: there is no such file, it is empty, or it names what the training part does not hold, or holds twice.
    """
    names = _named(file)
    places: dict[str, list[int]] = {}
    if isinstance(part.images, Tensor):
        numbers = range(len(part)) if part.origin is None else part.origin.tolist()
        files = [Path(str(i)) for i in numbers]
    elif isinstance(part.images, Packed):
        files = [part.images.store.files[i] for i in part.images.index]
    else:
        files = part.images
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
            what = f"names {len(unknown)} of {len(names)} images that are not in the training part: {unknown[0]}"
        raise UserError(f"eval.lowshot.lists={file}", what, "give file names, or indices for sets without files")
    twice = [name for name, at in zip(names, chosen, strict=True) if len(at) > 1]
    if twice:
        raise UserError(
            f"eval.lowshot.lists={file}", f"{twice[0]} is the name of several images", "name the folder too: class/name"
        )
    return torch.tensor(sorted({i for (i,) in chosen}))
