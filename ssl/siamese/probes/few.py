"""Linear top-1 from a few labels a class, the figure that self-supervision exists for."""

import torch
from torch import Tensor

from siamese.probes.features import Features
from siamese.probes.linear import Standardised, head_scores
from siamese.probes.logistic import LogisticGrid
from siamese.progress import over

STRENGTH = 1.0  # of the L2 penalty, that of scikit-learn's C=1; nothing is left to choose a better one by


def choice(labels: Tensor, per_class: int, seed: int) -> Tensor:
    """Sorted indices: a seeded choice of `per_class` samples of each class, or all of a class that has fewer."""
    labels = labels.cpu()  # a wait for the device, not one a class
    generator, chosen = torch.Generator().manual_seed(seed), []
    for label in labels[labels >= 0].unique().tolist():
        members = (labels == label).nonzero().squeeze(1)
        chosen.append(members[torch.randperm(len(members), generator=generator)[:per_class]])
    return torch.cat(chosen).sort().values


def few_label_top1(train: Features, test: Features, num_classes: int, per_class: int, choices: int) -> list[float]:
    """Top-1 on `test` of a logistic regression on `per_class` labels of each class, for each of several seeded choices.

    Features are standardised by mean and standard deviation of all of `train`, which need no labels. The L2 penalty is
    `STRENGTH` / N on the mean cross entropy of the N labels.
    """
    moments, out = train.moments(), []
    whole = Standardised(test, moments)
    grid = LogisticGrid([STRENGTH], max_iter=200, tolerance=1e-5)
    for seed in over(range(choices), choices, f"few labels ({per_class} a class)", "choices"):
        fit = train.subset(choice(train.y, per_class, seed))
        weight = grid.solve(Standardised(fit, moments), num_classes, STRENGTH / len(fit)).weight
        out.append(head_scores(weight.unsqueeze(0), whole.blocks())[0].item())
    return out
