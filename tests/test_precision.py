"""Float32 is float32 inside of views, losses and kNN, whatever the user has chosen, and the choice stays."""

import pytest
import torch
import torch.nn.functional as F
from view_cases import FULL, batch, generator, make_view

from siamese import losses
from siamese.augment import CleanView
from siamese.precision import full_float32
from siamese.probes import knn
from siamese.probes.features import Features

NEW = hasattr(torch.backends.cudnn, "conv")  # settings of single operations, since torch 2.9


def by_old():
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.allow_tf32 = True


def by_new():
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    torch.backends.cudnn.conv.fp32_precision = "tf32"


def nothing():
    pass


def settings():
    """What the operations of a GPU read."""
    if NEW:
        backends = torch.backends
        places = (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv)
        return [place.fp32_precision for place in places]
    return [torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32]


FULL_SETTINGS = ["ieee"] * 4 if NEW else ["highest", False]


@pytest.fixture(params=[by_old, nothing, *([by_new] if NEW else [])])
def chosen(request):
    """A user's choice. It is read by the interface by which it was made: torch forbids to mix them."""
    before = settings()
    request.param()
    yield request.param
    if not NEW:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
        return
    torch.set_float32_matmul_precision("highest")
    backends = torch.backends
    places = (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv)
    for place, precision in zip(places, before, strict=True):
        place.fp32_precision = precision


def test_the_users_settings_are_back_also_after_an_error(chosen):
    before = settings()
    with full_float32():
        assert settings() == FULL_SETTINGS
    assert settings() == before
    with pytest.raises(ZeroDivisionError), full_float32():
        1 / 0  # noqa: B018
    assert settings() == before
    if chosen is by_old:
        assert torch.get_float32_matmul_precision() == "medium" and torch.backends.cuda.matmul.allow_tf32


class Probe(torch.overrides.TorchFunctionMode):
    """Records the settings under which matrix products and convolutions run."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") in ("bmm", "matmul", "__matmul__", "mm", "conv2d", "linear"):
            self.seen.append((settings(), torch.is_autocast_enabled("cpu")))
        return function(*args, **(kwargs or {}))


def views():
    view = make_view("torch", **{**FULL, "blur_p": 1.0})
    view.render(batch(4), view.draw(4, 32, 32, generator()))


def clean_view():
    CleanView(24, 0.9, [0.0] * 3, [1.0] * 3)(batch(4))


def neighbours():
    x = F.normalize(torch.randn(8, 4), dim=1)
    knn.knn_predict(Features(x, torch.arange(8) % 2), x, 2, 3, 0.1)


def loss():
    losses.nt_xent(torch.randn(8, 4), 0.1)


@pytest.mark.parametrize("computed", [views, clean_view, neighbours, loss])
def test_products_are_computed_in_full(chosen, computed):
    before = settings()
    with Probe() as probe:
        computed()
    assert probe.seen and all(seen == FULL_SETTINGS for seen, _ in probe.seen)
    assert settings() == before


def test_losses_leave_autocast_too():
    with torch.autocast("cpu", torch.bfloat16), Probe() as probe:
        loss()
    assert probe.seen == [(FULL_SETTINGS, False)]
