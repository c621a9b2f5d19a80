"""eval_linear.py from end to end, inside one process."""

import copy
import hashlib
import json
import os
import platform
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from rich.console import Console
from scipy import stats

from siamese import build, checkpoint, cli
from siamese.cli import CONF
from siamese.errors import Stopped, UserError
from siamese.evaluation import features as features_module
from siamese.evaluation.compare import compare
from siamese.evaluation.features import FeatureCache
from siamese.evaluation.protocol import PROTOCOLS, Evaluation, check_used, published_name
from siamese.evaluation.statistics import exceeds, interval

SHORT = (
    "eval=all", "eval.linear.epochs=2", "eval.linear_crops.epochs=1", "eval.finetune.epochs=1",
    "eval.lowshot.seeds=[0,1]", "eval.lowshot.epochs=[1,1]", "eval.unlabelled.samples=200",
    "eval.unlabelled.view_images=50", "eval.unlabelled.views=3", "eval.logistic.l2s=[1e-3,1e-1]",
    "eval.finetune.lrs=[0.05,0.5]", "eval.lowshot.lrs=[0.03,0.3]",
)  # fmt: skip


@pytest.fixture
def trained(session):
    """A checkpoint of a run of a second."""
    run = session()
    run.fit()
    return run.checkpoints.file


@pytest.fixture
def evaluation(config, tmp_path):
    """Builds an evaluation as inside of hydra.main, where data sets can be composed."""

    def make(file, *overrides, folder="e"):
        cache = [f"eval.cache={tmp_path / 'cache'}"] * ("eval=cifar" not in overrides)
        cfg = config(f"ckpt={file}", f"run_dir={tmp_path / folder}", *cache, *overrides, name="eval_linear")
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return Evaluation(cfg)

    return make


def choices(node, path=""):
    """Everything that a results.json calls chosen, without the test figure of the choice."""
    out = {}
    for key, value in node.items():
        if key == "chosen":
            out[path] = value if isinstance(value, list) else {k: v for k, v in value.items() if k != "top1"}
        elif isinstance(value, dict):
            out |= choices(value, f"{path}/{key}")
    return out


def test_every_protocol(trained, evaluation, tmp_path, capsys):
    made = evaluation(trained, *SHORT)
    before = {k: hashlib.sha256(v.numpy().tobytes()).hexdigest() for k, v in made.backbone.state_dict().items()}
    results = made.run()
    after = {k: hashlib.sha256(v.numpy().tobytes()).hexdigest() for k, v in made.backbone.state_dict().items()}
    assert before == after
    assert not any(m.training for m in made.backbone.modules())
    assert json.loads((tmp_path / "e" / "results.json").read_text()) == json.loads(json.dumps(results))
    assert results["schema"] == 2
    assert results["ckpt_sha256"] == hashlib.sha256(trained.read_bytes()).hexdigest()
    assert set(results["protocols"]) == set(PROTOCOLS)
    rows = results["results"]["digits"]["rows"]
    assert set(rows) == {"raw_pixels", "random_init", "simsiam"}
    assert set(rows["simsiam"]) == set(rows["random_init"]) == set(PROTOCOLS)
    assert set(rows["raw_pixels"]) == {"knn", "linear", "logistic", "lowshot"}
    for row in rows.values():
        for protocol in set(row) - {"lowshot", "unlabelled"}:
            assert 0 < row[protocol]["top1"] <= 1, protocol
    assert len(rows["simsiam"]["lowshot"]["10%"]["finetuned"]["values"]) == 2
    few = results["protocols"]["lowshot"]["settings"]
    assert few["lrs"] == [0.03, 0.3]
    assert not {"lrs", "epochs", "seed"} & set(few["finetune"])  # it has its own
    for row in ("random_init", "simsiam"):
        tuned = {share: found["finetuned"] for share, found in rows[row]["lowshot"].items()}
        assert tuned["1%"]["batch_size"] == 10  # of 256: so few are there
        assert [(c["lr"], c["rate"], c["by"]) for c in tuned["1%"]["chosen"]] == [(0.3, 0.3, "fixed")] * 2
        assert [c["by"] for c in tuned["10%"]["chosen"]] == ["cross_validation"] * 2
    said = "1% of the labels, fine-tuned: one label a class chooses nothing; lr 0.3 and 1 epochs, the middle of the"
    assert capsys.readouterr().out.count(said) == 1
    assert rows["simsiam"]["linear_crops"]["batch_size"] == rows["simsiam"]["finetune"]["batch_size"] == 256
    assert rows["simsiam"]["unlabelled"]["lidar"] > 1
    assert "projection_rank" not in rows["random_init"]["unlabelled"]
    assert results["linear_top1"] == rows["simsiam"]["linear"]["top1"]


@pytest.mark.parametrize("method", ["simsiam", "moco"])
def test_the_projectors_rank_is_that_of_its_output(session, evaluation, method):
    """RankMe as in its paper, on what the trained method itself puts out."""
    run = session(f"method={method}")
    run.fit()
    judged = evaluation(run.checkpoints.file, "eval=unlabelled", "eval.unlabelled.samples=5000").run()
    trained = run.method.eval().cpu()
    part = run.data.pretrain
    x = build.clean_view(run.cfg)(part.images)
    with torch.no_grad():
        z = trained.projector(trained.backbone(x)).double()
    s = torch.linalg.svdvals(z)
    p = s / s.sum()
    expected = torch.exp(-(p * (p + 1e-7).log()).sum()).item()
    found = judged["results"]["digits"]["rows"][method]["unlabelled"]
    assert found["projection_rank"] == pytest.approx(expected, rel=1e-3)
    assert found["projection_lidar"] > 1
    assert found["feature_rank"] != pytest.approx(expected, rel=1e-3)


def test_permuting_the_test_labels_changes_no_choice(trained, evaluation):
    found = []
    for permuted in (False, True):
        made = evaluation(trained, *SHORT, f"eval.cache={'null'}", folder=str(permuted))
        data, _ = made.data["digits"]
        if permuted:
            data.test.labels = data.test.labels[torch.randperm(len(data.test.labels))]
        found.append(made.run())
    chosen = [choices(f["results"]) for f in found]
    assert len(chosen[0]) > 12
    assert chosen[0] == chosen[1]
    assert found[0]["linear_top1"] != found[1]["linear_top1"]


def test_other_data_and_a_supervised_row(trained, evaluation, session, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (60, 12, 12), dtype=np.uint8)
    labels = np.arange(60) % 3
    np.savez(tmp_path / "x.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    labelled = session("method=supervised", folder="labelled")
    labelled.fit()
    other = f"npz:{tmp_path / 'x.npz'}"
    common = ("eval=knn", f"eval.supervised={labelled.checkpoints.file}")
    results = evaluation(trained, *common, f"eval.data=['{other}']").run()["results"]
    assert list(results) == ["digits", "npz"]
    assert results["npz"]["classes"] == 3
    assert list(results["digits"]["rows"]) == ["raw_pixels", "random_init", "supervised", "simsiam"]
    assert results["npz"]["rows"]["simsiam"]["knn"]["chosen"]["k"] <= 60
    np.savez(tmp_path / "y.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    two = evaluation(trained, "eval=knn", f"eval.data=['{other}','npz:{tmp_path / 'y.npz'}']", folder="two").run()
    assert list(two["results"]) == ["digits", "npz", f"npz:{tmp_path / 'y.npz'}"]
    with pytest.raises(UserError, match="the checkpoint itself is of method=supervised"):
        evaluation(labelled.checkpoints.file, "eval=knn", f"eval.supervised={labelled.checkpoints.file}", folder="f")
    with pytest.raises(UserError, match="is judged already"):
        evaluation(trained, "eval=knn", f"eval.data=['{other}','{other}','{other}']", folder="f")
    for item, says in (
        ("digits", "is judged already"), ("npz", "data.path=null"), ("nothing", "eval.data=.nothing."),
        (f"npz:{tmp_path / 'no.npz'}", "does not exist"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=says):
            evaluation(trained, "eval=knn", f"eval.data=['{item}']", folder="f")
    with pytest.raises(UserError, match="is of method=simsiam on digits; give a checkpoint of method=supervised"):
        evaluation(trained, "eval=knn", f"eval.supervised={trained}", folder="f")
    split = session("method=supervised", "data.split_seed=3", "data.train_images=500", folder="other_split")
    split.fit()
    told = r"other training labels: data.split_seed=3 \(here 10\), data.train_images=500 \(here None\), 10 classes"
    with pytest.raises(UserError, match=told):
        evaluation(trained, "eval=knn", f"eval.supervised={split.checkpoints.file}", folder="f")
    assert not (tmp_path / "f").exists()
    saved = json.loads((tmp_path / "e" / "results.json").read_text())
    assert saved["supervised"]["ckpt_sha256"] == hashlib.sha256(labelled.checkpoints.file.read_bytes()).hexdigest()
    assert saved["supervised"]["seed"] == labelled.cfg.seed
    assert saved["results"]["npz"]["path"] == str(tmp_path / "x.npz")
    assert saved["results"]["digits"]["view"] == {
        "size": 8, "center": 1.0, "interpolation": "bilinear", "mean": [0.306] * 3, "std": [0.376] * 3,
    }  # fmt: skip
    assert saved["results"]["digits"]["split"] == {"val_fraction": 0.1, "split_seed": 10}


def test_labels_that_are_unknown(session, evaluation, tmp_path):
    """Those of a published validation or test part are left out; where none is known, one line says so."""
    rng = np.random.default_rng(0)
    parts = {f"{p}_images": rng.integers(0, 256, (n, 8, 8), dtype=np.uint8) for p, n in (("train", 60), ("test", 30))}
    parts |= {"val_images": parts["test_images"], "train_labels": np.arange(60) % 3}
    labels = np.arange(30) % 3
    some = np.where(np.arange(30) < 12, labels, -1)
    file = tmp_path / "x.npz"
    np.savez(file, **parts, val_labels=some, test_labels=some)
    run = session("data=npz", f"data.path={file}", "data.crop=8", "batch_size=20", "backbone=small")
    run.fit()
    quick = ("eval.protocols=[knn,linear,lowshot]", "eval.lowshot.fine_tune=false", "eval.linear.epochs=1")
    found = evaluation(run.checkpoints.file, *quick).run()["results"]["npz"]
    assert found["images"] == {"fit": 60, "val": 12, "test": 12}
    assert found["split"] == {"val": "as published"}
    assert found["rows"]["simsiam"]["lowshot"]["10%"]["images"] == 6  # of 24 labels a class two
    for part, says in (
        ("val", "data=npz: its validation part has no label that is known; drop that part"),
        ("test", "data=npz: has no labels or no test part with labels"),
    ):
        known = {"val_labels": labels, "test_labels": labels, f"{part}_labels": np.full(30, -1)}
        np.savez(file, **parts, **known)
        with pytest.raises(UserError, match=says):
            evaluation(run.checkpoints.file, folder="f")


def test_settings_that_would_do_nothing():
    for given, says in (
        ("eval/linear_crops=moco", "moco: linear_crops is not run, but knn, linear; add eval=linear_crops"),
        ("eval.finetune.epochs=3", "finetune.epochs=3: finetune is not run"),
        ("eval.lowshot.epochs=[1,1]", "lowshot is"), ("+eval.finetune.x=1", "finetune is not run"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=says):
            check_used([given], ["knn", "linear"])
    with pytest.raises(UserError, match="eval.finetune.seed=1: finetune is not run, but lowshot; add"):
        check_used(["eval.finetune.seed=1"], ["lowshot"])
    with pytest.raises(UserError, match="finetune is not run, but lowshot; add"):
        check_used(["eval.finetune.lrs=[1]"], ["lowshot"])
    check_used(["eval.linear.lrs=[1]", "eval.finetune.flip=0", "eval=lowshot", "eval.cache=null"], ["lowshot"])
    check_used(["eval/linear_crops=moco", "eval.data=[x]", "seed=1"], ["linear_crops"])


def test_published_figures_are_shown_for_their_stem(trained, evaluation):
    made = evaluation(trained)
    data, cfg = made.data["digits"]
    data.name = "cifar10"
    cfg.backbone.name = "resnet18"
    assert made._on(data, cfg)["published"] == []
    cfg.backbone.update({"small_stem": True, "stem_padding": 2})
    figures = made._on(data, cfg)["published"]
    assert {f["source"] for f in figures} == {"solo-learn", "solo-learn, MoCo v2+"}
    assert len(figures) == 5


@pytest.mark.parametrize(
    ("backbone", "sources"),
    [
        (["backbone=resnet18_small"], {"arXiv:2011.10566, appendix D"}),
        (["backbone=resnet18_small", "backbone.stem_padding=1"], {"arXiv:2011.10566, appendix D"}),
        (["backbone=resnet18_solo_learn"], {"solo-learn", "solo-learn, MoCo v2+"}),
        (["backbone=resnet18_small", "backbone.stem_padding=2"], {"solo-learn", "solo-learn, MoCo v2+"}),
        (["backbone=lightly"], {"lightly, batch 512"}),
        (["backbone=lightly", "backbone.num_splits=8"], {"lightly, batch 512"}),
        (["backbone=lightly", "backbone.name=resnet-34"], set()),
        (["backbone=resnet18_small", "backbone.stem_padding=0"], set()),
        (["backbone=resnet18"], set()),
        (["backbone=resnet50_small"], set()),
        (["backbone=small"], set()),
    ],
)
def test_published_figures_are_those_of_the_network(config, backbone, sources):
    """On CIFAR-10 solo-learn's stem pads by 2, lightly trains a ResNet of its own, and the papers' stem pads by 1."""
    name = published_name(config(*backbone).backbone)
    figures = OmegaConf.load(CONF / "published.yaml").figures
    assert {f.source for f in figures if f.data == "cifar10" and f.backbone == name} == sources


def test_a_backbone_can_be_looked_at_without_labels(session, evaluation, tmp_path, photos):
    run = session(
        "data=folder", f"data.path={photos}", "data.size=24", "data.crop=16", "batch_size=4", "backbone=small"
    )
    run.fit()
    with pytest.raises(
        UserError, match="no labels or no test part with labels; these protocols need both; eval=unlabelled"
    ):
        evaluation(run.checkpoints.file)
    results = evaluation(run.checkpoints.file, "eval=unlabelled", "eval.unlabelled.views=3").run()
    assert set(results["results"]["folder"]["rows"]) == {"random_init", "simsiam"}
    assert results["results"]["folder"]["rows"]["simsiam"]["unlabelled"]["samples"] == 40


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("eval.protocols=[knn,lniear]",), "lniear"),
        (("eval=cifar",), "one of train.py"),
        (("eval.knn.ks=[0]",), r"eval.knn.ks=\[0\]: not a possible value"),
        (("eval.logistic.l2s=[]",), "eval.logistic.l2s"),
        (("eval.in_memory_mb=-1",), "eval.in_memory_mb"),
        (("eval.finetune.crop_scale=[0.5]",), r"eval.finetune.crop_scale=\[0.5\]: .* two parts of the area"),
        (("eval.linear.lrs=[a]",), r"eval.linear.lrs=\[a\]: not a possible value; give a list of numbers above 0"),
        (("eval.linear.epochs=1.5",), "eval.linear.epochs=1.5: .* a whole number"),
        (("eval.linear.seed=a",), "eval.linear.seed=a"),
        (("eval.linear.lrs=[inf]",), r"eval.linear.lrs=\[inf\]"),
        (("eval.linear=5",), "eval.linear=5: names nothing to build; choose an option"),
        (("eval.knn=null",), "eval.knn=null: must be a group of settings"),
        (("+eval.linear.foo=1",), "eval.linear.foo=1: no such key"),
        (("foreign=backbone:resnet18",), "foreign=backbone:resnet18: "),
        (("eval.data=[5]",), r"eval.data=.5.: not a possible value"),
        (("eval.protocols=knn",), "eval.protocols=knn: not a possible value; give a list of protocols"),
        (("eval.finetune.seed=99999999999999999999",), "eval.finetune.seed=9"),
        (("eval.linear_crops.nesterov=maybe",), "nesterov=maybe"),
        (("eval.lowshot.fine_tune=maybe",), "fine_tune=maybe"),
        (("eval.lowshot.seeds=[0,0]",), "holds one of them twice"),
        (("eval.lowshot.fractions=[0.1]",), "one length for each fraction"),
        (("eval.logistic.l2s=[a]",), r"eval.logistic.l2s=\[a\]"),
        (("eval.logistic.max_iter=1.5",), "eval.logistic.max_iter=1.5"),
        (("eval.linear_crops.milestones=[a]",), r"eval.linear_crops.milestones=\[a\]"),
        (("eval.finetune.lrs=[a]",), r"eval.finetune.lrs=\[a\]"),
        (("eval.unlabelled.views=2.5",), "eval.unlabelled.views=2.5"),
        (("eval.lowshot.lists=[5]", "eval.lowshot.epochs=[1,1,1]"), r"eval.lowshot.lists=\[5\]: not a possible value"),
        (("eval.finetune.epochs=1.5",), "eval.finetune.epochs=1.5: .* a whole number"),
        (
            ("eval.linear_crops.interpolation=cubic",),
            "eval.linear_crops.interpolation=cubic: not a possible value; give bilinear, bicubic or null",
        ),
        (("eval.linear_crops.flip=2",), r"eval.linear_crops.flip=2: .*\[0, 1\]"),
        (("eval=lowshot", "eval.lowshot.epochs=[1]"), "eval.lowshot.seeds"),
    ],
)
def test_mistakes(trained, evaluation, arguments, says, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=says):
        evaluation(trained, *arguments)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_evaluation_in_the_folder_of_a_training_cannot_resume(trained, evaluation):
    with pytest.raises(UserError, match=r"run: already holds a run; add overwrite=true, or choose"):
        evaluation(trained, folder="run")


def test_features_that_are_not_finite(trained, evaluation, tmp_path):
    state = torch.load(trained, weights_only=True)
    for key, value in state["state_dict"].items():
        if key.startswith("backbone.") and value.is_floating_point():
            value.fill_(float("nan"))
    torch.save(state, trained)
    with pytest.raises(Stopped, match="simsiam: features of the fit part of digits hold NaN or infinity"):
        evaluation(trained).run()
    assert not (tmp_path / "e").exists()


def test_a_class_count_that_differs(trained, evaluation):
    state = torch.load(trained, weights_only=True)
    state[checkpoint.KEY]["num_classes"] = 7
    torch.save(state, trained)
    with pytest.raises(UserError, match="has 10 classes now, 7 when the checkpoint was trained"):
        evaluation(trained)


def test_an_evaluation_that_is_asked_to_end_takes_its_half_written_files_away(trained, tmp_path, monkeypatch):
    import eval_linear

    def interrupted(self):
        assert [f.name for f in (tmp_path / "e").iterdir()] == [".lock"]
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(Evaluation, "_run", interrupted)
    monkeypatch.chdir(tmp_path)
    arguments = [f"ckpt={trained}", "run_dir=e"]
    monkeypatch.setattr(sys, "argv", ["eval_linear.py", *arguments])
    GlobalHydra.instance().clear()
    try:
        with pytest.raises(SystemExit) as ended:
            cli.run(eval_linear.main, "eval_linear")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 143
    assert not (tmp_path / "e").exists()


# The cache


class Counted(torch.nn.Module):
    feature_dim = 2

    def __init__(self):
        super().__init__()
        self.linear, self.calls = torch.nn.Linear(3, 2), 0

    def forward(self, x):
        self.calls += 1
        return self.linear(x.mean((2, 3)))


@pytest.fixture
def cached(config, tmp_path):
    """Features of 50 images by a cache, and what they are made of."""
    cfg = config()
    part = build.data_set(cfg).fit.subset(torch.arange(50))
    view, device = build.clean_view(cfg), torch.device("cpu")
    network = Counted()

    def make(megabytes=100.0, part=part, network=network, view=view):
        loader = build.Loading.of(cfg, device).loader(part, 16, shuffle=False)
        return FeatureCache(tmp_path / "cache", megabytes).features(network, part, loader, view, device)

    return make, network, part, view


def test_features_are_found_again(cached, tmp_path):
    make, network, part, view = cached
    first, calls = make(), network.calls
    second = make()
    assert network.calls == calls > 0
    assert torch.equal(first.x, second.x)
    assert torch.equal(first.y, part.labels)
    changed = copy.deepcopy(view)
    changed.mean += 0.1
    make(view=changed)
    assert network.calls == 2 * calls
    other = part.subset(torch.arange(50))
    other.images[0, 0, 0, 0] += 1
    make(part=other)
    assert network.calls == 3 * calls
    with torch.no_grad():
        network.linear.bias += 1
    make()
    assert network.calls == 4 * calls
    assert len(list((tmp_path / "cache").iterdir())) == 4


def test_large_features_stay_in_their_file(cached):
    make, _, part, _ = cached
    small, large = make(), make(megabytes=0)
    assert small.x.dtype == torch.float32
    assert large.x.dtype == torch.float16
    torch.testing.assert_close(large.rows(torch.arange(50)), small.x, atol=2e-3, rtol=2e-3)
    part.labels[3] = -1  # unknown, or an image that cannot be read
    assert len(make(megabytes=0)) == len(make()) == 49


def test_every_protocol_on_features_in_files(trained, evaluation):
    """As with a million images: the figures are those of features in memory, but for float16."""
    short = [o for o in SHORT if "protocols" not in o and o != "eval=all"]
    wanted = ("eval=all", "eval.protocols=[knn,linear,logistic,lowshot]", "eval.lowshot.fine_tune=false", *short)
    memory, files = (
        evaluation(trained, *wanted, f"eval.in_memory_mb={mb}", folder=str(mb)).run()["results"]["digits"]["rows"]
        for mb in (4000, 0)
    )
    for protocol in ("knn", "linear", "logistic"):
        assert files["simsiam"][protocol]["top1"] == pytest.approx(memory["simsiam"][protocol]["top1"], abs=0.02)
    few = [rows["simsiam"]["lowshot"]["10%"]["linear"]["mean"] for rows in (memory, files)]
    assert few[0] == pytest.approx(few[1], abs=0.02)


def test_a_damaged_cache(cached, tmp_path):
    make, *_ = cached
    make()
    (folder,) = (tmp_path / "cache").iterdir()
    for name, content in (("x.bin", None), ("meta.json", b"{")):
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(content or before[:-4] + b"abcd")
        with pytest.raises(UserError, match=r"eval.cache=.*is damaged .*delete it, or set eval.cache=null"):
            make()
        (folder / name).write_bytes(before)
    make()


def test_a_disk_that_refuses_features(cached, tmp_path):
    make, *_ = cached
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(Stopped, match="features cannot be stored in .*make room, or set eval.cache=null"):
            make()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_killed_processes_left_is_removed(cached, tmp_path):
    make, *_ = cached
    gone = subprocess.Popen(["true"])
    gone.wait()
    left = [tmp_path / "cache" / f".unfinished-{h}-{p}-x" for h, p in
            ((platform.node(), gone.pid), (platform.node(), os.getpid()), ("elsewhere", gone.pid))]  # fmt: skip
    for folder in left:
        (folder / "deep").mkdir(parents=True)
    make()
    assert [folder.exists() for folder in left] == [False, True, True]


def test_an_unfinished_cache_is_not_taken_for_a_finished_one(cached, tmp_path, monkeypatch):
    make, *_ = cached

    def fail(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(features_module, "digest_of_file", fail)
    with pytest.raises(KeyboardInterrupt):
        make()
    assert list((tmp_path / "cache").iterdir()) == []


# Seeds


def test_the_interval_is_students():
    values = [0.9, 0.92, 0.97, 0.91]
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    found = interval(values)
    assert found["mean"] == pytest.approx(np.mean(values))
    assert found["interval95"] == pytest.approx((high - low) / 2)
    assert interval([0.5])["interval95"] is None


def test_which_differences_exceed_the_spread():
    assert exceeds([0.90, 0.91, 0.92], [0.80, 0.81, 0.82]) is True
    assert exceeds([0.90, 0.80, 0.70], [0.82, 0.79, 0.75]) is False
    assert exceeds([0.9], [0.8, 0.7]) is None
    assert exceeds([0.9, 0.9], [0.9, 0.9]) is False
    few, many = [0.90, 0.84], [0.800, 0.801, 0.799, 0.802, 0.798, 0.800, 0.801, 0.799]
    assert stats.ttest_ind(few, many).pvalue < 0.001  # a pooled variance would be sure
    assert exceeds(few, many) is False


def test_runs_side_by_side(tmp_path, capsys):
    for method, base in (("byol", 0.9), ("moco", 0.8)):
        for seed in range(3):
            folder = tmp_path / f"{method}{seed}"
            folder.mkdir()
            top1 = base + 0.01 * seed
            one = {
                "schema": 2, "method": method, "backbone": "small", "epochs": 3, "data": "digits", "seed": seed,
                "ckpt_sha256": f"{method}{seed}",
                "results": {"digits": {"rows": {method: {
                    "knn": {"top1": top1}, "unlabelled": {"lidar": 3.0},
                    "lowshot": {"1%": {"linear": {"mean": 0.5 + 0.1 * seed}}},
                }}}},
            }  # fmt: skip
            (folder / "results.json").write_text(json.dumps(one))
    folders = [str(tmp_path / f"{m}{s}") for m in ("byol", "moco") for s in range(3)]
    console = Console(width=160)
    values = compare(folders, console)
    assert values["byol, small, 3 epochs on digits"]["digits knn"] == pytest.approx([0.9, 0.91, 0.92])
    out = capsys.readouterr().out
    assert "91.00 ± 2.48" in out  # 4.303 * 0.01 / sqrt(3)
    assert (
        "digits knn: byol, small, 3 epochs on digits - moco, small, 3 epochs on digits: +10.00 points, exceeds" in out
    )
    assert "+0.00 points, lies within" in out
    compare([folders[0], folders[3]], console)
    assert "cannot be judged: one seed" in capsys.readouterr().out
    for wrong in (5, [1]):
        with pytest.raises(UserError, match="no readable results.json"):
            compare(wrong, console)
    with pytest.raises(UserError, match="nothing to compare"):
        compare([], console)
    with pytest.raises(UserError, match="holds one checkpoint twice"):
        compare([folders[0], folders[0]], console)
    with pytest.raises(UserError, match="no readable results.json"):
        compare([str(tmp_path)], console)
    other = json.loads((tmp_path / "byol1" / "results.json").read_text())
    (tmp_path / "byol1" / "results.json").write_text(json.dumps({**other, "seed": 0}))
    with pytest.raises(UserError, match="holds one seed twice"):
        compare(folders[:3], console)
    (tmp_path / "byol1" / "results.json").write_text(json.dumps({**other, "seed": 0, "recipe": "abc"}))
    values = compare(folders[:3], console)  # of another recipe: a row of its own
    assert values["byol, small, 3 epochs on digits [abc]"]["digits knn"] == [0.91]
    assert values["byol, small, 3 epochs on digits [None]"]["digits knn"] == [0.9, 0.92]
    for k in (20, 200):
        judged = {**other, "protocols": {"knn": {"what": "", "settings": {"k": k}}}}
        (tmp_path / f"moco{k // 200}" / "results.json").write_text(json.dumps({**judged, "seed": k}))
    with pytest.raises(UserError, match=r"moco1: protocol knn was \{'k': 200\}, in .*moco0 \{'k': 20\}; evaluate"):
        compare(folders[3:], console)
    for n in (100, 200):
        smaller = copy.deepcopy(other) | {"seed": n, "ckpt_sha256": str(n)}
        smaller["results"]["digits"]["images"] = {"fit": n}
        (tmp_path / f"byol{n // 200}" / "results.json").write_text(json.dumps(smaller))
    with pytest.raises(UserError, match=r"byol1: images of digits was \{'fit': 200\}, in .*byol0 \{'fit': 100\}"):
        compare(folders[:2], console)
    (tmp_path / "byol0" / "results.json").write_text('{"schema": 1}')
    with pytest.raises(UserError, match="has schema 1, 2 is known"):
        compare([folders[0]], console)


def test_published_figures_name_what_there_is():
    figures = OmegaConf.load(CONF / "published.yaml").figures
    for figure in figures:
        assert (CONF / "data" / f"{figure.data}.yaml").is_file()
        assert (CONF / "backbone" / f"{figure.backbone}.yaml").is_file()
        assert (CONF / "method" / f"{figure.method}.yaml").is_file()
        assert 0 < figure.top1 < 100
        assert figure.source
    assert Path(CONF / "eval" / "all.yaml").read_text().count(",") == len(PROTOCOLS) - 1


def test_the_recipe_of_a_run_leaves_the_seed_out(config):
    def digest(*overrides):
        return build.recipe_digest(build.plain(config("method=simsiam", *overrides)))

    assert digest() == build.recipe_digest({**build.plain(config("method=simsiam")), "new": {"key": None}})
    assert digest() == digest("seed=1", "run_dir=elsewhere", "data.workers=1", "monitor.every=2")
    assert len({digest(), digest("optimizer.lr=0.1"), digest("epochs=7"), digest("data.split_seed=3")}) == 4
