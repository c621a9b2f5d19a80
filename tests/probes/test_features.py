"""Extraction of features, and features in files."""

import numpy as np
import torch
from torch import nn

from siamese.augment import CleanView
from siamese.probes import Features, LinearGrid, extract, knn_accuracy
from siamese.probes.linear import Standardised


def test_features_in_file_equal_features_in_memory(digits, tmp_path):
    fit, test = digits
    stored = []
    for i, f in enumerate((fit, test)):
        np.save(tmp_path / f"{i}.npy", f.x.half().numpy())
        stored.append(
            Features(torch.from_numpy(np.load(tmp_path / f"{i}.npy", mmap_mode="c")), f.y, torch.device("cpu"))
        )
    memory = [Features(f.x.half().float(), f.y) for f in (fit, test)]
    for a, b in zip(fit.moments(), (fit.x.mean(0), fit.x.std(0)), strict=True):
        torch.testing.assert_close(a[b > 1e-3], b[b > 1e-3])
    assert stored[0].x.dtype == torch.float16
    grid = LinearGrid([0.1], [0.0], epochs=5, batch_size=256, seed=0)
    heads = [grid.train(Standardised(f, f.moments()), 10, grid.settings()) for f in (stored[0], memory[0])]
    torch.testing.assert_close(*heads, atol=1e-4, rtol=1e-3)
    assert knn_accuracy(stored[0], stored[1], 10, 20, 0.1) == knn_accuracy(*memory, 10, 20, 0.1)
    both, expected = stored[0].concat(stored[1]), memory[0].concat(memory[1])
    assert both.x.dtype == torch.float16
    assert [p.data_ptr() for p in both.x.parts] == [f.x.data_ptr() for f in stored]  # no copy of them
    assert torch.equal(torch.cat([x for x, _ in both.blocks(500)]), expected.x)  # blocks over the seam
    assert torch.equal(both.y, expected.y)
    index = torch.randperm(len(expected), generator=torch.Generator().manual_seed(0))
    assert torch.equal(both.rows(index), expected.x[index])
    assert torch.equal(both.subset(expected.y == 3).x, expected.x[expected.y == 3])
    assert torch.equal(both.subset(torch.tensor([3, 1500])).x, expected.x[[3, 1500]])


class Net(nn.Module):
    feature_dim = 4

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.drop = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(self.bn(self.conv(x))).mean((2, 3))


def test_extraction_keeps_tensors_and_modes():
    net = Net().train()
    net.conv.eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    images = torch.randint(0, 256, (10, 3, 8, 8), dtype=torch.uint8)
    labels = torch.tensor([0, 1, -1, 0, 1, 0, 1, 0, 1, 0])
    view = CleanView(8, 1.0, [0.5] * 3, [0.2] * 3)
    batches = [(images[:6], labels[:6], None), (images[6:], labels[6:], None)]
    features = extract(net, batches, view, "cpu")
    assert len(features) == 9  # the sample without a label is left out
    assert len(extract(net, batches, view, "cpu", keep_unlabelled=True)) == 10
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert net.training
    assert net.bn.training
    assert not net.conv.training
    expected = net.eval()(((images.float() / 255) - 0.5) / 0.2)[labels >= 0]
    torch.testing.assert_close(features.x, expected.detach())
