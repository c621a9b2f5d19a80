"""What the kernels of a GPU have of their own. That they render what torch renders is tested with the other views."""

import sys
from types import SimpleNamespace

import pytest
import torch
from view_cases import FULL, batch, generator, make_view, needs_triton, replace

import siamese.augment
from siamese.augment import Views
from siamese.augment.operations import OPERATIONS
from siamese.errors import UserError

pytestmark = needs_triton
GPU = torch.device("cuda")


@pytest.fixture
def gpu(monkeypatch):
    """The module, which does not try to compile."""
    from siamese.augment import gpu

    monkeypatch.setattr(gpu, "compile_one", lambda device: None)
    return gpu


def test_the_kernels_know_every_operation(gpu):
    assert sorted(gpu.FIELDS) == sorted(field for kind in OPERATIONS for field in kind.fields)


def test_all_parameters_of_a_sample_are_one_row(gpu):
    view = make_view("torch", **{**FULL, "rotate_degrees": 10.0})
    p = view.draw(6, 32, 32, generator())
    p = replace(p, jitter=torch.tensor([True] * 5 + [False]), gray=torch.ones(6, dtype=torch.bool))
    p.order[0], p.order[1] = torch.tensor([3, 2, 0, 1]), torch.tensor([1, 0, 2, 3])
    rows = gpu.packed(p, gray_first=True)
    named = dict(zip(gpu.kernels.PARAMETERS, rows.T, strict=True))
    assert rows.shape == (6, len(gpu.kernels.PARAMETERS)) and rows.dtype == torch.float32
    assert torch.equal(torch.stack([named[n] for n in ("top", "left", "height", "width")], 1).long(), p.box)
    assert named["before"][[0, 1, 5]].tolist() == [3, 0, 4]  # changes before the contrast; all, where nothing changes
    assert [named[n][5] for n in ("first", "second", "third", "fourth")] == [4] * 4
    assert named["gray"].tolist() == [1] * 6 and gpu.packed(p, gray_first=False).max(0).values[16] == 2
    torch.testing.assert_close(named["cosine"], torch.cos(p.degrees * torch.pi / 180))


@pytest.mark.parametrize(
    ("height", "width", "changes"),
    [
        (13, 9, {"size": 12, "blur_p": 1.0, "blur_kernel": 23, "rotate_degrees": 40.0, "gray_first": True}),
        (1, 1, {"size": 3, "interpolation": "bicubic"}),
        (60, 7, {"size": 1, "blur_p": 0.0, "gray_p": 0.0}),
    ],
)
def test_views_are_those_of_torch(height, width, changes):
    settings = {**FULL, "solarize_p": 0.5, "gray_p": 0.5, **changes}
    ours, reference = (make_view(how, **settings) for how in ("triton", "torch"))
    x = torch.randint(0, 256, (4, 3, height, width), dtype=torch.uint8)
    p = reference.draw(len(x), height, width, generator(5))
    strided = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # as decoders lay them out
    assert (ours.render(strided, p) - reference.render(x, p)).abs().max() * 255 < 0.01


def test_a_view_does_not_depend_on_the_batch_around_it():
    view, x = make_view("triton", **FULL), batch(5)
    p = view.draw(5, 32, 32, generator())
    first = type(p)(**{name: value[:2] for name, value in vars(p).items()})
    assert torch.equal(view.render(x[:2], first), view.render(x, p)[:2])
    assert view.render(x[:0], view.draw(0, 32, 32, generator())).shape == (0, 3, 24, 24)


def test_no_memory_of_others_is_read():
    view, x = make_view("triton", **FULL), batch(4)
    p = view.draw(4, 32, 32, generator())
    with pytest.raises(ValueError, match="the images have 2 channels, the view has 3"):
        view.render(x[:, :2], p)
    with pytest.raises(ValueError, match=r"a box has no pixel or leaves its image of 8 x 32 pixels: \[\["):
        view.render(x[:, :, :8], p)
    for column, value in ((0, -1), (3, 0)):
        wrong = p.box.clone()
        wrong[2, column] = value
        with pytest.raises(ValueError, match="a box has no pixel or leaves its image"):
            view.render(x, replace(p, box=wrong))
    with pytest.raises(ValueError, match=r"box is \(3, 4\), not \(4, 4\)"):
        view.render(x, replace(p, box=p.box[:3]))


def test_a_gpu_renders_by_triton_however_short_the_run(gpu):
    for wanted, why in (("auto", "augment.compiled=auto"), (True, "augment.compiled=true")):
        views = Views(0, [{}, {}], **{**FULL, "compiled": wanted})
        assert views.prepare(1, GPU) == f"2 x 24 px, compiled ({why}, Triton {gpu.triton.__version__})"
        assert [view.compiled for view in views.views] == ["cuda", "cuda"]
        assert torch.isfinite(views(batch(2))[0]).all()  # images on a CPU are rendered by torch
    views = Views(0, [{}], **{**FULL, "compiled": False})
    assert "not compiled (augment.compiled=false)" in views.prepare(10**9, GPU)
    assert not views.views[0].compiled


def no_compiler(gpu, views, monkeypatch):
    def fail(device):
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

    monkeypatch.setattr(gpu, "compile_one", fail)


def unknown(gpu, views, monkeypatch):
    views.views[0].operations.append(SimpleNamespace(active=True, fields=("invert",)))


def no_triton(gpu, views, monkeypatch):
    monkeypatch.delattr(siamese.augment, "gpu")
    monkeypatch.setitem(sys.modules, "siamese.augment.gpu", None)


@pytest.mark.parametrize(
    ("lacking", "message", "remedy"),
    [
        (no_compiler, "Triton cannot compile here (Failed to find C compiler.): torch renders", "install gcc"),
        (unknown, "kernels.py does not know invert: torch renders", "add it to kernels.py"),
        (no_triton, "Triton cannot be imported (", "install triton"),
    ],
)
def test_torch_renders_what_the_kernels_cannot_and_it_is_said(gpu, monkeypatch, lacking, message, remedy):
    views = Views(0, [{}, {}], **{**FULL, "compiled": "auto"})
    lacking(gpu, views, monkeypatch)
    assert f"not compiled (augment.compiled=auto, but {message}" in views.prepare(10**9, GPU)
    assert not any(view.compiled for view in views.views)
    views.views[0].compile_wanted = True
    with pytest.raises(UserError) as caught:
        views.prepare(1, GPU)
    assert caught.value.setting == "augment.compiled=true" and message in caught.value.problem
    assert caught.value.remedy == f"{remedy}, or set augment.compiled=auto"


def test_other_devices_are_rendered_by_torch():
    views = Views(0, [{}], **{**FULL, "compiled": "auto"})
    assert "but no compiled code is for mps: torch renders" in views.prepare(1, torch.device("mps"))
