"""Few labels: linear heads and fine-tuning on a small part of the training labels."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Len
from torch import Tensor

from siamese.data import Split
from siamese.errors import RunAborted, UserError
from siamese.evaluation.few_labels import few, folds, listed, names_in
from siamese.evaluation.protocols.base import Protocol, percent
from siamese.evaluation.protocols.finetune import Score, Tuning, best_of
from siamese.evaluation.protocols.linear import Linear
from siamese.evaluation.target import EvalTarget
from siamese.intervals import interval
from siamese.probes.features import Features
from siamese.probes.linear import LinearGrid, LinearResult, Standardised, best_head, head_scores
from siamese.progress import within
from siamese.schema.types import Built, Count, Positives, Seed, Share

FOLDS = 5  # of the linear heads, all trained at once
TUNING_FOLDS = 2  # of the fine-tuning; k folds of n settings cost as much as n * (k - 1) fine-tunings
VALIDATION_PART, FIXED = "validation_part", "fixed"
WAYS = {"linear": "linear", "finetuned": "fine-tuned"}


@dataclass
class LowShot(Protocol):
    """A linear head, and the fine-tuned network, on few labels, over several choices of these labels.

    Only the few labels choose settings. The linear head's setting has the best mean top-1 in a cross-validation over
    five folds of them; the fine-tuning's rate and length are chosen over two folds (among equals the lowest cross
    entropy). Every kind of features chooses its own in the same way. With n settings a fine-tuning costs as much as
    n + 1 of them (5 rates: 6). If no class has two labels, nothing can be validated: the middle of the lists is taken
    for all, and results.json says so. ``chosen_by=validation_part`` is BYOL's way: the validation split, which has more
    labels than the few, chooses the fine-tuning; what is tried has not learned from that split.

    Args:
        fractions: shares of the training labels, stratified by class (at least one image of each).
        lists: files that name the labelled images, one per line, in place of fractions: by file name (as SimCLR's
            1percent.txt and 10percent.txt for ImageNet), or by number in the training split as published.
        seeds: of the choices. A list has one choice; there the seeds are those of the training.
        fine_tune: also fine-tune.
        lrs: of the fine-tuning, scaled as `Tuning` says; a single one is used as it is.
        epochs: of the fine-tuning for each fraction, then for each list; a list of lengths is tried.
        chosen_by: ``cross_validation`` or ``validation_part``, for several rates or lengths of the fine-tuning.
        linear: the heads.
        finetune: the fine-tuning.
    """

    fractions: Sequence[Share]
    lists: Sequence[str]
    seeds: Sequence[Seed]
    fine_tune: bool
    lrs: Positives
    epochs: Sequence[Count | Annotated[Sequence[Count], Len(1)]]
    chosen_by: Literal["cross_validation", "validation_part"]
    linear: Annotated[Linear, Built()]
    finetune: Annotated[Tuning, Built()]

    name = "lowshot"
    description = (
        "few labels, stratified by class, over seeds; linear, and fine-tuned: the whole network, BatchNorm in train "
        "mode; both settings chosen by cross-validation within the few labels, for each row separately, the middle of "
        "the lists where no class has two; with chosen_by=validation_part the fine-tuning's by more labels than the few"
    )
    needs_network = False
    order = 50

    def __post_init__(self) -> None:
        for key, values in (
            ("seeds", list(self.seeds)),
            ("fractions", list(self.fractions)),
            ("lists", [Path(str(name)).stem for name in self.lists]),
        ):
            if len(set(values)) < len(values):
                raise UserError(f"eval.lowshot.{key}={values}", "holds a value twice", "give each value once")
        for name in self.lists:
            names_in(name)
        if not self.seeds or (self.fine_tune and len(self.epochs) != len(self.fractions) + len(self.lists)):
            raise UserError(
                f"eval.lowshot.seeds={list(self.seeds)} eval.lowshot.epochs={list(self.epochs)}",
                "a seed, and one length for each fraction and list, are needed", "give seeds=[0,1,2] epochs=[60,30]",
            )  # fmt: skip

    def as_trained(self, probe: Mapping[str, Any]) -> "LowShot":
        return replace(self, linear=self.linear.as_trained(probe))

    def evaluate(self, target: EvalTarget) -> dict[str, Any]:
        """For each fraction or list: the number of images, and for both ways every seed's top-1, their mean, half the
        width of its 95 % interval, and what was chosen for every seed."""
        out: dict[str, Any] = {}
        whole, split = target.all_features(), target.all_training(mark_val=False)
        if len(whole) != len(split):
            lost = len(split) - len(whole)
            raise RunAborted(f"{lost} images cannot be read; remove them, so that few labels can be counted")
        sources: list[tuple[str, float | str]] = [
            *((f"{100 * f:g}%", f) for f in self.fractions),
            *((Path(name).stem, name) for name in self.lists),
        ]
        lengths = self.epochs if self.fine_tune else [0] * len(sources)
        for (name, source), epochs in zip(sources, lengths, strict=True):
            linear, chosen, tuned, taken, count = [], [], [], [], 0
            for i, seed in enumerate(self.seeds):
                index = listed(source, split) if isinstance(source, str) else few(split.labels, source, seed)
                count = len(index)
                with within(f"{name}, choice {i + 1} of {len(self.seeds)}"):
                    top1, setting = self._linear(target, whole.subset(index), seed)
                    linear.append(top1)
                    chosen.append(setting)
                    if self.fine_tune and target.network is not None:
                        top1, setting = self._finetuned(target, split, index, epochs, seed)
                        tuned.append(top1)
                        taken.append(setting)
            out[name] = {"images": count, "linear": {**interval(linear), "chosen": chosen}}
            if tuned:
                out[name]["finetuned"] = {
                    **interval(tuned), "epochs": epochs, "batch_size": self.finetune.step_images(count),
                    "chosen": taken,
                }  # fmt: skip
        for line in self.remarks(out):
            target.say(line)
        return out

    def _linear(self, target: EvalTarget, labelled: Features, seed: int) -> tuple[float, dict[str, Any]]:
        """Top-1 of the linear head, and its setting."""
        classes, grid = target.data.num_classes, self.linear.grid
        setting = select_head(labelled, grid, classes, seed)
        top1 = grid.score(labelled, target.features("test"), classes, setting).top1
        validated = None if math.isnan(setting.top1) else setting.top1
        return top1, {"lr": setting.lr, "weight_decay": setting.weight_decay, "validation_top1": validated}

    def _finetuned(
        self, target: EvalTarget, split: Split, index: Tensor, epochs: int | Sequence[int], seed: int
    ) -> tuple[float, dict[str, Any]]:
        """Top-1 of the fine-tuned network, and its setting."""
        assert target.data.test is not None
        best = self._tuning(target, split, index, epochs, seed)
        on, lr, length = split.subset(index), best["lr"], best["epochs"]
        top1 = self.finetune.score(target, on, target.data.test, lr, length, seed).top1
        return top1, {**best, "rate": self.finetune.rate(lr, len(index))}

    def _tuning(
        self, target: EvalTarget, split: Split, few: Tensor, epochs: int | Sequence[int], seed: int
    ) -> dict[str, Any]:
        """The fine-tuning's rate and length, and what chose them."""
        lengths = epochs if isinstance(epochs, Sequence) else [epochs]
        options = [(lr, n) for lr in self.lrs for n in lengths]
        folds = self._splits(target, split, few, seed) if len(options) > 1 else []
        if not folds:
            lr, length = self.lrs[len(self.lrs) // 2], lengths[len(lengths) // 2]
            return {"lr": lr, "epochs": length, "by": FIXED, "validation_top1": None}
        tried = []
        for lr, n in options:
            scores = [self.finetune.score(target, on, held_out, lr, n, seed) for on, held_out in folds]
            tried.append(
                Score(sum(s.right for s in scores), sum(s.loss for s in scores), sum(s.images for s in scores))
            )
        best = best_of(tried)
        lr, length = options[best]
        return {"lr": lr, "epochs": length, "by": self.chosen_by, "validation_top1": tried[best].top1}

    def _splits(self, target: EvalTarget, split: Split, few: Tensor, seed: int) -> list[tuple[Split, Split]]:
        """Pairs (trained on, scored on) of `few` images of `split`, which ends with the validation split; empty if the
        few cannot be divided."""
        data = target.data
        if self.chosen_by == VALIDATION_PART:
            rest = few[few < len(data.train_labeled)]
            if len(rest) < 2:
                raise RunAborted(
                    "the few labels all lie in the validation split; give one rate and length, or another split"
                )
            return [(split.subset(rest), data.val)]
        fold = folds(split.labels[few], TUNING_FOLDS, seed)
        pairs = [(few[fold != i], few[fold == i]) for i in fold[fold >= 0].unique().tolist()]
        if any(len(rest) < 2 for rest, _ in pairs):  # BatchNorm in train mode
            return []
        return [(split.subset(rest), split.subset(held_out)) for rest, held_out in pairs]

    def remarks(self, result: dict[str, Any]) -> list[str]:
        """Lines for the user: settings that nothing could choose, and rates that are scaled by few images."""
        out = []
        for share, way in ((share, way) for share, ways in result.items() for way in WAYS if way in ways):
            figures, label = result[share][way], f"{share} of the labels, {WAYS[way]}"
            fixed = [c for c in figures["chosen"] if c["validation_top1"] is None]
            if way == "linear" and fixed:
                what = f"lr {fixed[0]['lr']:g} and weight decay {fixed[0]['weight_decay']:g}, the middle of the grid"
                out.append(f"{label}: one label per class chooses nothing; {what}")
            if way == "finetuned" and fixed and (len(self.lrs) > 1 or isinstance(figures["epochs"], Sequence)):
                what = f"lr {fixed[0]['lr']:g} and {fixed[0]['epochs']} epochs, the middle of the lists, in every row"
                out.append(f"{label}: one label per class chooses nothing; {what}")
            tuning = self.finetune
            if way == "finetuned" and tuning.scaling == "linear" and figures["batch_size"] < tuning.batch_size:
                what = f"rates are scaled by {figures['batch_size']} / 256, in every row"
                out.append(f"{label}: fewer images than a batch of {tuning.batch_size}; {what}")
        return out

    def cells(self, result: dict[str, Any]) -> dict[str, str]:
        return {
            f"{share} of the labels, {way}": percent(ways[way]["mean"], ways[way]["interval95"])
            for share, ways in result.items()
            for way in WAYS
            if way in ways
        }


def select_head(few: Features, grid: LinearGrid, classes: int, seed: int) -> LinearResult:
    """The setting with the best top-1 over all folds, and this top-1; NaN with the middle of the lists if no sample can
    be held out."""
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
