"""Few labels: linear heads and fine-tuning on a small part of the training labels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Len
from torch import Tensor

from siamese.data import Part
from siamese.data.packed import Packed
from siamese.errors import Stopped, UserError
from siamese.evaluation.features import Features
from siamese.evaluation.finetune import FineTune, Score, best_of
from siamese.evaluation.linear import LinearGrid, LinearResult, Standardised, best_head, head_scores
from siamese.evaluation.statistics import interval
from siamese.evaluation.subject import Subject
from siamese.paths import expand_path
from siamese.schema.types import Count, Positives, Seed, Share

FOLDS = 5  # of the linear heads, all trained at once
TUNING_FOLDS = 2  # of the fine-tuning; k folds of n settings cost as much as n * (k - 1) fine-tunings
VALIDATION_PART, FIXED = "validation_part", "fixed"


@dataclass
class LowShot:
    """A linear head and the whole network, fine-tuned, on few labels, over several choices of these labels.

    Nothing but the few labels chooses: the linear head's setting is the one with the best mean top-1 in a
    cross-validation over five folds of them, the fine-tuning's rate and length in one over two folds (among equals
    the one of the lowest cross entropy). Every kind of features chooses its own, in the same way. The fine-tuning of a
    seed then costs as much as n + 1 of them, n being the settings (5 rates: 6). Where no class has two labels there is
    nothing to validate with, and the middle of the lists is taken, the same for all, as results.json says.
    `chosen_by` ``validation_part`` is BYOL's way: the fine-tuning is chosen by the validation part, which is more
    labels than the few; what is tried has not learned from that part.

    Args:
        fractions: parts of the training labels, each class alike (at least one a class).
        lists: files that name the labelled images in place of fractions, a line each: the file's name
            (as SimCLR's 1percent.txt and 10percent.txt for ImageNet), or the number in the training part as published.
        seeds: of the choices; a list has one choice, and the seeds are those of the training.
        fine_tune: also fine-tune.
        lrs: of the fine-tuning, scaled as `FineTune` says; one is taken as it is.
        epochs: of the fine-tuning for each fraction, then for each list; a list of them is tried.
        chosen_by: ``cross_validation`` or ``validation_part``, of several rates or lengths of the fine-tuning.
    """

    fractions: Sequence[Share]
    lists: Sequence[str]
    seeds: Sequence[Seed]
    fine_tune: bool
    lrs: Positives
    epochs: Sequence[Count | Annotated[Sequence[Count], Len(1)]]
    chosen_by: Literal["cross_validation", "validation_part"]

    def __post_init__(self) -> None:
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
                    taken.append({**best, "rate": tuning.rate(best["lr"], count)})
                    on, lr, length = part.subset(index), best["lr"], best["epochs"]
                    tuned.append(tuning.score(subject, on, subject.data.test, lr, length, seed).top1)
            out[name] = {"images": count, "linear": {**interval(linear), "chosen": chosen}}
            if tuned:
                out[name]["finetuned"] = {
                    **interval(tuned), "epochs": epochs, "batch_size": tuning.step_images(count), "chosen": taken,
                }  # fmt: skip
        return out

    def _tuning(
        self, subject: Subject, part: Part, few: Tensor, tuning: FineTune, epochs: int | Sequence[int], seed: int
    ) -> dict[str, Any]:
        """The fine-tuning's rate and length, and by what they were chosen."""
        lengths = epochs if isinstance(epochs, Sequence) else [epochs]
        options = [(lr, n) for lr in self.lrs for n in lengths]
        splits = self._splits(subject, part, few, seed) if len(options) > 1 else []
        if not splits:
            lr, length = self.lrs[len(self.lrs) // 2], lengths[len(lengths) // 2]
            return {"lr": lr, "epochs": length, "by": FIXED, "validation_top1": None}
        tried = []
        for lr, n in options:
            scores = [tuning.score(subject, on, held_out, lr, n, seed) for on, held_out in splits]
            tried.append(
                Score(sum(s.right for s in scores), sum(s.loss for s in scores), sum(s.images for s in scores))
            )
        best = best_of(tried)
        lr, length = options[best]
        return {"lr": lr, "epochs": length, "by": self.chosen_by, "validation_top1": tried[best].top1}

    def _splits(self, subject: Subject, part: Part, few: Tensor, seed: int) -> list[tuple[Part, Part]]:
        """What is trained on, and what it is scored on, of `few` images of `part`, whose end is the validation part;
        none where the few cannot be divided."""
        data = subject.data
        if self.chosen_by == VALIDATION_PART:
            rest = few[few < len(data.fit)]
            if len(rest) < 2:
                raise Stopped(
                    "the few labels all lie in the validation part; give one rate and length, or another split"
                )
            return [(part.subset(rest), data.val)]
        fold = folds(part.labels[few], TUNING_FOLDS, seed)
        splits = [(few[fold != i], few[fold == i]) for i in fold[fold >= 0].unique().tolist()]
        if any(len(rest) < 2 for rest, _ in splits):  # BatchNorm in train mode
            return []
        return [(part.subset(rest), part.subset(held_out)) for rest, held_out in splits]

    def remarks(self, found: dict[str, Any], way: str, tuning: FineTune) -> list[str]:
        """What is to be said of one way, ``linear`` or ``finetuned``, of the figures of `evaluate`: where nothing could
        choose, and where fewer images than a batch scale the rate."""
        out = []
        for share, figures in ((share, ways[way]) for share, ways in found.items() if way in ways):
            fixed = [c for c in figures["chosen"] if c["validation_top1"] is None]
            if way == "linear" and fixed:
                what = f"lr {fixed[0]['lr']:g} and weight decay {fixed[0]['weight_decay']:g}, the middle of the grid"
                out.append(f"{share} of the labels, linear: one label a class chooses nothing; {what}")
            if way == "finetuned" and fixed and (len(self.lrs) > 1 or isinstance(figures["epochs"], Sequence)):
                what = f"lr {fixed[0]['lr']:g} and {fixed[0]['epochs']} epochs, the middle of the lists, in every row"
                out.append(f"{share} of the labels, fine-tuned: one label a class chooses nothing; {what}")
            if way == "finetuned" and tuning.scaling == "linear" and figures["batch_size"] < tuning.batch_size:
                what = f"rates are scaled by {figures['batch_size']} / 256, in every row"
                out.append(
                    f"{share} of the labels, fine-tuned: fewer images than a batch of {tuning.batch_size}; {what}"
                )
        return out


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
    path = expand_path(file, "eval.lowshot.lists")
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
