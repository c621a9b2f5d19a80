"""The supervised baseline."""

import copy

import torch
import torch.nn.functional as F
from method_cases import make, views


def test_loss_is_cross_entropy_of_every_view(config):
    method = make(config, "supervised")
    x, y = views(), torch.tensor([0, 1, 2, 3, 4, 0])
    reference = copy.deepcopy(method)
    logits = reference.classifier(reference.backbone(torch.cat(x)))
    torch.testing.assert_close(method.loss(x, y), F.cross_entropy(logits, torch.cat([y, y])))
