"""What a notebook uses: load, pretrain, ImageData with Lightning's own Trainer, load_from_checkpoint."""

import json
import pickle

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from paths import ROOT
from PIL import Image
from torchvision.models import resnet18

import siamese
from siamese.checkpoints.reading import epochs_of
from siamese.errors import UserError
from siamese.methods.base import Method
from siamese.methods.simclr import SimCLR
from siamese.methods.simsiam import SimSiam

TINY = ["backbone.widths=[4,8]", "monitor.every=0", "probe.linear.epochs=2", "trainer=cpu"]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("api") / "run"
    return siamese.pretrain(method="simclr", settings=TINY, epochs=1, run_dir=folder), folder


def test_pretrain_returns_the_trained_backbone(pretrained):
    made, folder = pretrained
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    own = made.backbone.state_dict()
    assert own and all(torch.equal(v, state[f"backbone.{k}"]) for k, v in own.items())
    assert not any(m.training for m in made.backbone.modules())
    assert made.summary == json.loads((folder / "summary.json").read_text()) and made.summary["finished"]
    assert made.trained_on["method"] == "simclr" and made.trained_on["data"] == "digits"
    assert repr(made) == "Pretrained(small, 8 features, format=train.py's own, method=simclr, data=digits, epochs=1)"


def test_a_third_partys_network_takes_imagenets_view_unless_told(pretrained, tmp_path, monkeypatch):
    made, folder = pretrained
    monkeypatch.chdir(folder)  # which has a summary.json of another network
    tensors = {f"module.encoder_q.{k}": v for k, v in resnet18().state_dict().items()}
    torch.save({"state_dict": tensors}, tmp_path / "moco.pth")
    (tmp_path / "weights").mkdir()
    loaded = siamese.load(tmp_path / "moco.pth", "backbone=resnet18")
    assert loaded.transform(Image.new("RGB", (300, 400))).shape == (3, 224, 224)
    data = loaded.config["data"]
    assert (data["center"], data["mean"], data["std"]) == (0.875, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert loaded.summary == {} and made.summary != {}
    small = siamese.load(tmp_path / "moco.pth", "backbone=resnet18", "data=digits")
    assert small.transform(Image.new("RGB", (300, 400))).shape == (3, 8, 8)


def test_epochs_are_those_that_were_trained():
    def state(done, **callback):
        return {
            "loops": {"fit_loop": {"epoch_progress": {"current": {"processed": done}}}},
            "callbacks": {"x": callback},
        }

    assert epochs_of(state(2), 20) == 2
    assert epochs_of(state(7, wait_count=3, patience=3), 20) == 20  # ended by itself
    assert epochs_of(state(7, wait_count=2, patience=3), 20) == 7
    assert epochs_of({}, 20) == epochs_of({"loops": 3}, 20) == 20


def test_load_equals_embed(pretrained, tmp_path, command):
    """Features by transform and backbone are those that `siamese embed` streams from the files."""
    made, folder = pretrained
    (tmp_path / "photos").mkdir()
    for i in range(4):
        pixels = np.random.default_rng(i).integers(0, 256, (40 + i, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
    given = ("data=folder", "data.path=photos", "data.center=1", "data.resident=false", "data.workers=0", "out=f.npz")
    done = command("ssl/siamese/__main__.py", "embed", f"ckpt={folder}/checkpoints/last.ckpt", *given)
    assert done.returncode == 0, done.stderr
    expected = np.load(tmp_path / "f.npz")["features"]
    files = sorted((tmp_path / "photos").iterdir())
    as_array = [np.array(Image.open(f)) for f in files]
    for images in (files, list(map(str, files)), list(map(Image.fromarray, as_array)), as_array,
                   [torch.from_numpy(a).permute(2, 0, 1) for a in as_array]):  # fmt: skip
        x = torch.stack([made.transform(image) for image in images])
        np.testing.assert_allclose(made.backbone(x).numpy(), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="takes 3 channels"):
        made.transform(np.zeros((4, 4, 5), np.uint8))
    with pytest.raises(ValueError, match="an image of uint16, the backbone was trained on 8 bits"):
        made.transform(Image.fromarray(np.zeros((9, 9), np.uint16)))
    assert made.transform(np.zeros((9, 9), np.uint8)).shape == (3, 8, 8)  # grey is repeated


def test_lightning_by_hand(tmp_path):
    data = siamese.ImageData(method="simclr", settings=TINY, epochs=2, seed=3)
    model = data.make_method()
    keep = pl.callbacks.ModelCheckpoint(tmp_path, save_last=True)
    trainer = pl.Trainer(max_epochs=2, callbacks=[keep], accelerator="cpu", logger=False, enable_progress_bar=False,
                         enable_model_summary=False)  # fmt: skip
    trainer.fit(model, data)
    assert trainer.global_step == 2 * 22
    file = tmp_path / "last.ckpt"
    made = SimCLR.load_from_checkpoint(file)
    assert type(made) is SimCLR
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in made.state_dict().items())
    assert type(Method.load_from_checkpoint(file)) is SimCLR
    with pytest.raises(UserError, match="is of siamese.methods.simclr.SimCLR; load it by SimCLR"):
        SimSiam.load_from_checkpoint(file)
    loaded = siamese.load(file)
    own = model.backbone.state_dict()
    assert all(torch.equal(v, own[k]) for k, v in loaded.backbone.state_dict().items())


def test_lightning_by_hand_is_the_run_of_the_command(tmp_path):
    """The same losses as train.py's, step by step."""
    made = siamese.pretrain(method="simsiam", settings=TINY, epochs=1, run_dir=tmp_path / "r")
    data = siamese.ImageData(method="simsiam", settings=TINY, epochs=1)
    model = data.make_method()
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    pl.Trainer(max_epochs=1, accelerator="cpu", enable_checkpointing=False, **options).fit(model, data)
    ours = model.backbone.state_dict()
    assert all(torch.equal(v, ours[k]) for k, v in made.backbone.state_dict().items())


def test_no_code_of_a_file_is_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (exec, ("raise SystemExit('ran')",))

    with (tmp_path / "evil.ckpt").open("wb") as stream:
        pickle.dump({"state_dict": {}, "siamese": Evil()}, stream)
    for load in (siamese.load, SimCLR.load_from_checkpoint):
        with pytest.raises(UserError, match="could run code|cannot be read"):
            load(tmp_path / "evil.ckpt")


def test_mistakes():
    with pytest.raises(UserError, match="nothing.ckpt: is not a file"):
        siamese.load("nothing.ckpt")
    with pytest.raises(UserError, match="data.path=nowhere: does not exist"):
        siamese.pretrain("nowhere", epochs=1)
    for given, told in (
        ({"method": "nope"}, "method=nope: no such option"),
        ({"foo": 1}, "foo=1: no such key"),
        ({"settings": ["a=["]}, "command line: .*quotes"),
        ({"settings": "epochs=1"}, "settings=epochs=1: is text; give a list"),
    ):
        for use in (siamese.pretrain, siamese.ImageData):
            with pytest.raises(UserError, match=told):
                use(**given)
    with pytest.raises(UserError, match=r"batch_size=5000: larger than the training set \(1438 images\)"):
        siamese.ImageData(batch_size=5000)
    with pytest.raises(AttributeError, match="has no attribute 'lod'"):
        siamese.lod  # noqa: B018


def test_import_is_light():
    import subprocess
    import sys

    code = "import sys, siamese; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.slow
def test_example_notebook_runs(tmp_path, monkeypatch):
    """Every cell, in order, in an empty folder."""
    notebook = json.loads((ROOT / "examples" / "first.ipynb").read_text())
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    assert len(cells) >= 5
    assert not any(c.get("outputs") for c in notebook["cells"])  # what it prints depends on the machine
    monkeypatch.chdir(tmp_path)
    space = {"__name__": "__main__"}
    for cell in cells:
        exec(compile(cell, "first.ipynb", "exec"), space)
