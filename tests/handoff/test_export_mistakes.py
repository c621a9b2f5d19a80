"""A user's mistake at `siamese export`, a failed proof, a failed write: one line, and nothing is left."""

import importlib.util
import math
import os

import pytest
import timm
import torch
from export_cases import make, run

from siamese.errors import RunAborted, UserError
from siamese.handoff.export import base, onnx_file, proof, torchvision_file
from siamese.handoff.export.proof import Proof
from siamese.handoff.export.timm_folder import OLDEST, TimmFolder, version_of

QUICK = ("images=6", "data.workers=0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cases")


@pytest.fixture(scope="module")
def small(folder):
    return make("small", folder)


@pytest.fixture(scope="module")
def resnet(folder):
    return make("resnet", folder)


def refused(here, says, *arguments, kind=UserError):
    """The export ends with this message and leaves the current folder as it was."""
    before = {f: f.lstat().st_mtime_ns for f in here.rglob("*")}
    with pytest.raises(kind, match=says) as told:
        run(*arguments)
    assert "\n" not in str(told.value)
    assert {f: f.lstat().st_mtime_ns for f in here.rglob("*")} == before


def test_settings(small, here):
    (here / "there").mkdir()
    (here / "link").symlink_to("nowhere")
    (here / "file").write_text("x")
    ckpt = f"ckpt={small.file}"
    for says, arguments in (
        ("ckpt=: no checkpoint was given", ("to=timm", "out=o")),
        ("to=pickle: not a possible value; give timm, torchvision, safetensors, onnx or hf", (ckpt, "to=pickle")),
        (r"to=: no format was given; give to=timm", (ckpt, "out=o")),
        ("out=: no folder was given; give out=FOLDER", (ckpt, "to=onnx")),
        ("out=there: is there already", (ckpt, "to=onnx", "out=there")),
        ("out=link: is there already", (ckpt, "to=onnx", "out=link")),
        ("out=file/o: /.*/file is not a folder", (ckpt, "to=onnx", "out=file/o")),
        ("images=1: not a possible value", (ckpt, "to=onnx", "out=o", "images=1")),
        ("onnx.opset=3: not a possible value; give a whole number in", (ckpt, "to=onnx", "out=o", "onnx.opset=3")),
        ("ckpt=none.ckpt: is not a file", ("ckpt=none.ckpt", "to=onnx", "out=o")),
        ("ckpt=file: cannot be read|ckpt=file: is not a checkpoint", ("ckpt=file", "to=onnx", "out=o")),
    ):
        refused(here, says, *arguments)


def test_a_folder_that_cannot_be_written_to(small, here, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    refused(here, f"out=o: {here} cannot be written to", f"ckpt={small.file}", "to=onnx", "out=o")
    monkeypatch.undo()

    def mkdtemp(*arguments, **named):
        raise PermissionError(13, "Permission denied")

    monkeypatch.chdir(here)
    monkeypatch.setattr("tempfile.mkdtemp", mkdtemp)
    refused(
        here, r"out=.*/a/b/o: cannot be written \(Permission denied\)", f"ckpt={small.file}", "to=safetensors",
        "out=a/b/o", *QUICK,
    )  # fmt: skip


def test_networks_that_a_library_has_no_class_for(small, resnet, folder, here, monkeypatch):
    monkeypatch.setattr(TimmFolder, "check_installed", lambda self: None)
    for case, to, says in (
        (small, "timm", "to=timm backbone=small: timm has no class for this network; use to=safetensors, to=onnx$"),
        (small, "hf", "to=hf backbone=small: timm has no class for this network; use to=safetensors, to=onnx$"),
        (small, "torchvision", "torchvision has no class for this network; use to=safetensors, to=onnx$"),
        (make("stem", folder), "timm", "no 3x3 stem without stride; use to=safetensors, to=onnx$"),
        (make("stem", folder), "torchvision", "no 3x3 stem; use to=safetensors, to=onnx$"),
        (make("vit_token", folder), "torchvision", "use to=timm, to=safetensors, to=onnx, to=hf$"),
        (make("resnet_grey", folder), "torchvision", "take 3 channels, this one 1; use to=timm, to=safe"),
        (make("resnet_bands", folder), "torchvision", "take 3 channels, this one 13; use to=timm, to=safe"),
    ):
        refused(here, says, f"ckpt={case.file}", f"to={to}", "out=o", *QUICK)


def test_onnx_without_its_extra(small, here, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *a: None if name == "onnxruntime" else real(name, *a))
    says = r"to=onnx: needs onnxruntime, not installed here; pip install 'siamese-ssl\[onnx\]'"
    refused(here, says, f"ckpt={small.file}", "to=onnx", "out=o")


def test_third_party_files_need_a_backbone_and_images(resnet, here):
    torch.save(resnet.network.state_dict(), "r.pth")
    refused(here, "was not written by train.py .* name its backbone", "ckpt=r.pth", "to=torchvision", "out=o")
    says = "ckpt=r.pth: real images are needed for the proof, and none are named; give data=NAME, as in data=digits"
    refused(here, says, "ckpt=r.pth", "backbone=resnet18", "to=torchvision", "out=o")
    refused(
        here, "does not fit the backbone", "ckpt=r.pth", "backbone=resnet34", "data=digits", "to=torchvision", "out=o"
    )
    run("ckpt=r.pth", "backbone=resnet18", "data=digits", "data.crop=32", "to=torchvision", "out=o", *QUICK)
    assert sorted(f.name for f in (here / "o").iterdir()) == ["config.json", "model.pth"]


def test_images_of_the_training_that_are_gone(small, here, tmp_path, capsys):
    state = torch.load(small.file, weights_only=True)
    moved = str(here / "moved.npz")
    state["siamese"]["config"]["data"]["path"] = str(here / "gone.npz")
    torch.save(state, "m.ckpt")
    says = (
        r"data=npz: real images are needed for the proof, and those of the training cannot be read "
        r"\(data.path=.*gone.npz.*\); give data.path=, where they lie now, or data=NAME, as in data=digits, which "
    )
    refused(here, says, "ckpt=m.ckpt", "to=safetensors", "out=o", *QUICK)
    refused(here, "data.path=other.npz", "ckpt=m.ckpt", "to=safetensors", "out=o", "data.path=other.npz", *QUICK)
    with open(moved, "wb") as file, open(small.cfg.data.path, "rb") as before:
        file.write(before.read())
    run("ckpt=m.ckpt", "to=safetensors", "out=o", f"data.path={moved}", *QUICK)
    assert "proof: 6 images of npz" in capsys.readouterr().out
    says = "the images have 1 channels"  # the network takes 13
    refused(here, says, "ckpt=m.ckpt", "to=safetensors", "out=p", "data=digits", *QUICK)


def perturbed(trained):
    """The tensors, nine of the first weights a hundredth larger."""
    state = STATE_OF(trained)
    key = next(k for k, v in state.items() if v.ndim == 4)
    state[key].view(-1)[:9] *= 1.01
    return state


STATE_OF = base.state_of


new_timm = pytest.mark.skipif(version_of(timm.__version__) < OLDEST, reason="this timm loads no folder")


@pytest.mark.parametrize(
    "to", ["safetensors", "torchvision", *(pytest.param(to, marks=new_timm) for to in ("timm", "hf"))]
)
def test_a_failed_proof_leaves_nothing(to, small, resnet, here, monkeypatch):
    monkeypatch.setattr(base, "state_of", perturbed)
    monkeypatch.setattr(torchvision_file, "state_of", perturbed)
    case = small if to == "safetensors" else resnet
    says = rf"proof: 6 images of npz, largest difference \S+ of features up to \S+: more than .* to={to}; nothing was"
    refused(here, says, f"ckpt={case.file}", f"to={to}", "out=a/b/o", *QUICK, kind=RunAborted)


def test_a_proof_sees_a_wrong_normalisation(small, here, monkeypatch):
    monkeypatch.setattr(onnx_file.OnnxFile, "inputs", lambda self, images: images.levels * 1.001)
    refused(here, "proof: 6 images", f"ckpt={small.file}", "to=onnx", "out=o", *QUICK, kind=RunAborted)


def test_a_proof_sees_files_that_do_not_load(small, here, monkeypatch):
    monkeypatch.setattr(base, "state_of", lambda trained: {"x": torch.zeros(1)})
    says = r"proof: the network that to=safetensors wrote cannot be run \(RuntimeError: .*nothing was kept"
    refused(here, says, f"ckpt={small.file}", "to=safetensors", "out=o", *QUICK, kind=RunAborted)


def test_a_proof_sees_another_shape_and_nan(small, here, monkeypatch):
    monkeypatch.setattr(base, "state_of", STATE_OF)
    with monkeypatch.context() as patched:
        patched.setattr(proof, "features", lambda network, x: network(x)[:, : 4 if network.training else 3])
        patched.setattr("siamese.handoff.export.safetensors_file.SafetensorsFile.load",
                        lambda self, folder: small.network.train())  # fmt: skip
        refused(here, "gives features", f"ckpt={small.file}", "to=safetensors", "out=o", *QUICK, kind=RunAborted)
    small.network.eval()
    state = torch.load(small.file, weights_only=True)
    next(iter(state["state_dict"].values())).fill_(float("nan"))
    torch.save(state, "nan.ckpt")
    says = "largest difference nan of features up to nan"
    refused(here, says, "ckpt=nan.ckpt", "to=safetensors", "out=o", *QUICK, kind=RunAborted)


def test_the_tolerance_is_relative_to_large_features():
    assert Proof(2, "x", 9e-6, 0.01).holds and not Proof(2, "x", 1.1e-5, 0.01).holds
    assert Proof(2, "x", 9e-4, 100.0).holds and not Proof(2, "x", 1.1e-3, 100.0).holds
    assert not Proof(2, "x", math.nan, 1.0).holds and not Proof(2, "x", math.nan, math.inf).holds
