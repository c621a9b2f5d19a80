"""Any number of views, of several sizes."""

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from method_cases import CLASSES, METHODS, make, view_sizes
from PIL import Image
from torch import nn
from view_cases import FULL

from siamese import factory
from siamese.augment import Views, described
from siamese.errors import UserError
from siamese.methods import MultiCrop
from siamese.methods.base import by_size
from siamese.schema import check_train

MULTI_CROP = [name for name in METHODS if issubclass(CLASSES[name], MultiCrop)]
MANY = [{"count": 2}, {"count": 3, "size": 12, "crop_scale": [0.05, 0.2]}, {"size": 20, "flip_p": 0.0}]


def views(**more):
    return Views(7, MANY, **{**FULL, "crop_scale": [0.3, 1.0], "interpolation": "bicubic", **more})


def test_entries_with_a_count_are_that_many_views():
    made = views()
    assert made.sizes == [24, 24, 12, 12, 12, 20]
    assert described(made.sizes) == "2 x 24 + 3 x 12 + 1 x 20"
    assert made.largest == [0, 1]
    assert [v.settings["crop_scale"] for v in made.views] == [(0.3, 1.0)] * 2 + [(0.05, 0.2)] * 3 + [(0.3, 1.0)]
    images = torch.randint(0, 256, (5, 3, 40, 30), dtype=torch.uint8)
    out = made(images)
    assert [tuple(x.shape) for x in out] == [(5, 3, s, s) for s in made.sizes]
    assert not torch.equal(out[0], out[1])  # drawn apart
    assert not torch.equal(out[2], out[3])


def test_two_entries_are_the_views_of_a_count_of_two():
    images = torch.randint(0, 256, (5, 3, 40, 30), dtype=torch.uint8)
    one, other = (Views(3, views, **FULL)(images) for views in ([{}, {}], [{"count": 2}]))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_cpp_renders_every_size_as_torch_does():
    images = torch.randint(0, 256, (6, 3, 40, 50), dtype=torch.uint8)
    torch_views, cpp = views(compiled=False), views(compiled=True)
    torch_views.prepare(1, torch.device("cpu"))
    assert cpp.prepare(1, torch.device("cpu")).startswith("2 x 24 + 3 x 12 + 1 x 20 px, compiled")
    for a, b in zip(torch_views(images), cpp(images), strict=True):
        assert ((a - b).abs() * 255).max() < 1  # grey levels


class Counting(nn.Module):
    """Records the batches that it sees."""

    def __init__(self):
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def forward(self, x):
        self.seen.append(tuple(x.shape))
        return x.mean((2, 3))


def test_network_sees_each_size_once():
    network, x = Counting(), [torch.randn(4, 3, s, s) for s in (8, 8, 4, 6, 4)]
    out = by_size(network, x)
    assert network.seen == [(8, 3, 8, 8), (8, 3, 4, 4), (4, 3, 6, 6)]
    for one, y in zip(x, out, strict=True):
        torch.testing.assert_close(y, one.mean((2, 3)))


@pytest.mark.parametrize("name", METHODS)
def test_views_that_a_method_cannot_take_are_refused_in_one_line(config, name):
    method = make(config, name)
    method.check_views(view_sizes(name))
    wrong = [[8]] if name in MULTI_CROP else [[8, 4], [4, 8, 8]]
    if CLASSES[name].num_views:
        wrong.append([8] * (CLASSES[name].num_views + 1))
    for sizes in wrong:
        with pytest.raises(UserError, match=rf"augment.views={described(sizes).replace('+', '.')}") as error:
            method.check_views(sizes)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("views", ["[{count:0}]", "[{count:a}]", "[{counts:2}]", "[]", "[{size:0}]"])
def test_impossible_entries_are_refused(config, views):
    with pytest.raises(UserError, match=r"augment.views"):
        check_train(config("method=simclr", f"augment.views={views}"))


needs_multi_crop = pytest.mark.skipif(not MULTI_CROP, reason="no method takes views of several sizes")


@needs_multi_crop
@pytest.mark.parametrize("resident", ["true", "false"])
def test_run_with_views_of_several_sizes(session, tmp_path, resident, photos):
    """From a tensor, and cut out of files; online evaluation and views.png included."""
    name = MULTI_CROP[0]
    many = "[{count:2},{count:3,size:8,crop_scale:[0.05,0.3]}]"
    run = session(
        f"method={name}", "data=folder", f"data.path={photos}", "data.size=24", "data.crop=16", "batch_size=4",
        "backbone=small", "backbone.widths=[4,8]", f"data.resident={resident}", "data.workers=0",
        f"augment.views={many}",
    )  # fmt: skip
    assert run.views.sizes == [16, 16, 8, 8, 8]
    run.fit()
    run.finish()
    with Image.open(tmp_path / "run" / "views.png") as picture:
        assert picture.size[1] > 6 * 96  # the image and five views


@needs_multi_crop
def test_batch_holds_every_view(config):
    name = MULTI_CROP[0]
    cfg = config(f"method={name}", "augment.views=[{count:2},{count:2,size:4}]")
    method = make(config, name, views=factory.views(cfg), optimizer=instantiate(cfg.optimizer, _convert_="all"))
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 3, 8, 8), dtype=np.uint8))
    batch = method.on_after_batch_transfer((images, torch.zeros(6), None), 0)
    assert [x.shape[-1] for x in batch.views] == [8, 8, 4, 4]
    assert method.loss(batch.views).isfinite()
