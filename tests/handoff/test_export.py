"""Exports, read by the libraries that they are for; timm's in a process that knows nothing of this project."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
import torchvision
import yaml
from export_cases import make, run
from omegaconf import OmegaConf
from safetensors import safe_open
from safetensors.torch import load_file

from siamese import factory
from siamese.handoff import network
from siamese.handoff.export.card import card
from siamese.handoff.export.timm_folder import OLDEST, version_of

TIMM = ("resnet", "resnet_grey", "resnet_bands", "vit_token", "vit_mean", "timm", "timm_bands")
ONNX = ("small", "vit_mean")

IN_TIMM = """
import sys, numpy, timm, torch
for folder in sys.argv[1:]:
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert model.num_classes == 0, folder
    x = numpy.load(f"{folder}/../x.npy")
    config = timm.data.resolve_model_data_config(model)
    assert tuple(config["input_size"]) == x.shape[1:], folder
    with torch.no_grad():
        numpy.save(f"{folder}/../y.npy", model(torch.from_numpy(x)).numpy())
head = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=7)
assert head(torch.zeros(2, *x.shape[1:])).shape == (2, 7)
assert not [name for name in sys.modules if name.startswith("siamese")]
"""


new_timm = pytest.mark.skipif(version_of(timm.__version__) < OLDEST, reason="this timm loads no folder")


def outside(code: str, *arguments: Path) -> None:
    """Run code in a new process, outside of the checkout."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=arguments[0],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def same(case, y: np.ndarray) -> None:
    assert y.shape == case.features.shape and y.dtype == np.float32
    assert abs(y - case.features).max() <= 1e-5 * max(1, abs(case.features).max())
    assert case.features.std(0).max() > 1e-3  # other images have other features


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Makes each case once: name -> `Case`."""
    made, folder = {}, tmp_path_factory.mktemp("cases")

    def get(name):
        if name not in made:
            made[name] = make(name, folder)
        return made[name]

    return get


def exported(case, to: str, folder: Path, x: np.ndarray, *more: str) -> Path:
    """Export a case into `folder`/out, and put the inputs of its test beside that."""
    folder.mkdir()
    np.save(folder / "x.npy", x)
    run(f"ckpt={case.file}", f"to={to}", f"out={folder / 'out'}", "images=20", "data.workers=0", *more)
    return folder / "out"


@new_timm
def test_timm_loads_its_folders(cases, tmp_path):
    folders = [exported(cases(name), "timm", tmp_path / name, cases(name).normalised) for name in TIMM]
    outside(IN_TIMM, *folders)
    for name in TIMM:
        same(cases(name), np.load(tmp_path / name / "y.npy"))
        config = json.loads((tmp_path / name / "out" / "config.json").read_text())
        a = cases(name).cfg.augment
        assert config["pretrained_cfg"]["mean"] == list(a.mean) and config["pretrained_cfg"]["std"] == list(a.std)
        assert str(tmp_path) not in json.dumps(config)
    assert {f.name for f in folders[0].iterdir()} == {"config.json", "model.safetensors"}
    assert folders[0].stat().st_mode & 0o777 == (tmp_path / "resnet").stat().st_mode & 0o777


def test_an_old_timm_is_refused(cases, tmp_path, monkeypatch):
    assert OLDEST == (1, 0, 26)
    monkeypatch.setattr(timm, "__version__", "1.0.25")
    with pytest.raises(Exception, match=r"to=hf: timm 1.0.25 cannot load a model from a folder; pip install 'timm>="):
        run(f"ckpt={cases('resnet').file}", "to=hf", f"out={tmp_path / 'o'}")


def test_torchvision_loads_its_file(cases, tmp_path):
    case = cases("resnet")
    out = exported(case, "torchvision", tmp_path / "r", case.normalised)
    model = torchvision.models.get_model(json.loads((out / "config.json").read_text())["name"])
    model.fc = torch.nn.Identity()
    model.load_state_dict(torch.load(out / "model.pth", weights_only=True))
    with torch.no_grad():
        same(case, model.eval()(torch.from_numpy(case.normalised)).numpy())


def runtime(out: Path) -> np.ndarray:
    """What onnxruntime makes of the inputs beside an export, in batches of 1 and 4."""
    session = onnxruntime.InferenceSession(str(out / "model.onnx"), providers=["CPUExecutionProvider"])
    x = np.load(out.parent / "x.npy")
    return np.concatenate([session.run(["features"], {"images": part})[0] for part in (x[:1], x[1:])])


@pytest.mark.parametrize("levels", [True, False])
def test_onnxruntime_loads_its_file(levels, cases, tmp_path):
    names = ONNX if levels else ONNX[:1]
    folders = []
    for name in names:
        x = cases(name).levels if levels else cases(name).normalised
        more = (f"onnx.preprocessing={str(levels).lower()}", f"onnx.opset={20 if name == 'vit_mean' else 18}")
        folders.append(exported(cases(name), "onnx", tmp_path / name, x, *more))
    for name, folder in zip(names, folders, strict=True):
        same(cases(name), runtime(folder))
        model = onnx.load(folder / "model.onnx")
        told = {p.key: p.value for p in model.metadata_props}
        seen = json.loads(told["preprocessing"])
        assert seen["center"] == cases(name).cfg.data.center and seen["size"] == cases(name).size
        assert ("grey levels" in told["input"]) == levels
        assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
        assert [o.version for o in model.opset_import if not o.domain] == [20 if name == "vit_mean" else 18]


def test_the_older_exporter_of_torch_takes_over(cases, tmp_path, monkeypatch, capsys):
    real = torch.onnx.export

    def export(*arguments, dynamo, **named):
        if dynamo:
            raise RuntimeError("cannot be traced")
        return real(*arguments, dynamo=dynamo, **named)

    monkeypatch.setattr(torch.onnx, "export", export)
    case = cases("small")
    same(case, runtime(exported(case, "onnx", tmp_path / "s", case.levels)))
    assert not case.network.training
    said = capsys.readouterr().out
    assert "failed (RuntimeError: cannot be traced); the one on TorchScript was used" in said


@pytest.mark.parametrize("name", ["small", "vit_mean", "stem"])
def test_safetensors_are_read_by_this_project(name, cases, tmp_path):
    case = cases(name)
    out = exported(case, "safetensors", tmp_path / "s", case.normalised)
    kept = OmegaConf.load(out / "config.json")
    made = factory.backbone(kept)  # by the config alone
    made.load_state_dict(load_file(out / "model.safetensors"))
    with torch.no_grad():
        same(case, made.eval()(torch.from_numpy(case.normalised)).numpy())
    with safe_open(out / "model.safetensors", "pt") as file:
        assert file.metadata()["method"] == "simsiam" and file.metadata()["feature_dim"] == str(made.feature_dim)
    assert str(tmp_path) not in (out / "config.json").read_text() and kept.data.path is None
    assert list(kept.augment.mean) == list(case.cfg.augment.mean)


def test_an_export_is_a_checkpoint_again(cases, tmp_path, capsys):
    """What to=safetensors wrote is read as a third party's file, and exported again."""
    case = cases("stem")
    out = exported(case, "safetensors", tmp_path / "s", case.normalised)
    again = exported(
        case, "safetensors", tmp_path / "o", case.normalised, f"ckpt={out / 'model.safetensors'}",
        "backbone=resnet18_small", "data=npz", f"data.path={case.cfg.data.path}", "data.crop=16",
        f"data.mean={list(case.cfg.data.mean)}", f"data.std={list(case.cfg.data.std)}",
    )  # fmt: skip
    for key, value in load_file(again / "model.safetensors").items():
        assert torch.equal(value, case.network.state_dict()[key]), key
    assert "proof: 20 images of npz, largest difference" in capsys.readouterr().out


@new_timm
def test_the_model_card(cases, tmp_path):
    from huggingface_hub import ModelCard

    case, checkpoints = cases("resnet"), tmp_path / "run" / "checkpoints"
    checkpoints.mkdir(parents=True)
    file = checkpoints / "last.ckpt"
    file.write_bytes(case.file.read_bytes())
    digest = network.read(str(file)).about()["ckpt_sha256"]
    summary = {
        "method": "simsiam", "data": "npz", "backbone": "resnet18", "seed": 0, "finished": True, "knn_top1": 0.87654,
        "linear_top1": float("nan"), "baselines": {"raw_pixels": {"knn_top1": 0.5}},
    }  # fmt: skip
    rows = {"simsiam": {"linear": {"top1": 0.91234, "chosen": {}}}, "a|b": {"knn": {"top1": 0.25}}}
    (tmp_path / "run" / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "run" / "results.json").write_text(
        json.dumps({"ckpt_sha256": digest, "results": {"npz": {"rows": rows}}})
    )
    out = exported(case, "hf", tmp_path / "h", case.normalised, f"ckpt={file}")
    written = ModelCard.load(out / "README.md")
    assert written.data.library_name == "timm" and "timm" in written.data.tags and written.data.license is None
    text = (out / "README.md").read_text()
    assert yaml.safe_load(text.split("---\n")[1])["pipeline_tag"] == "image-feature-extraction"
    for line in (
        "| simsiam | kNN top-1 | validation | 0.8765 |", "| raw_pixels | kNN top-1 | validation | 0.5000 |",
        "| simsiam | linear top-1 | npz, test | 0.9123 |", "| a\\|b | knn top-1 | npz, test | 0.2500 |", "## Licence",
        f"| ckpt sha256 | {digest} |", "`siamese export ckpt=last.ckpt to=hf out=FOLDER`",
    ):  # fmt: skip
        assert line in text, line
    assert "linear top-1 | validation" not in text and str(tmp_path) not in text
    code, names = text.split("```python\n")[1].split("```")[0], {}
    exec(code.replace("hf-hub:USER/NAME", f"local-dir:{out}"), names)
    assert names["features"].shape == (1, 512)
    with torch.no_grad():
        same(case, names["model"](torch.from_numpy(case.normalised)).numpy())

    # Figures of another run, or of another file, are not this checkpoint's.
    (tmp_path / "run" / "summary.json").write_text(json.dumps({**summary, "seed": 1}))
    (tmp_path / "run" / "results.json").write_text(json.dumps({"ckpt_sha256": "0", "results": {"npz": {"rows": rows}}}))
    source = network.read(str(file))
    assert "No evaluation lay beside the checkpoint." in card(network.build(source, case.cfg))
