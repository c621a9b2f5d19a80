"""Third-party checkpoints, in the layouts of their official code, with random weights."""

import itertools
import json

import pytest
import timm
import torch
import torchvision
from lightly.models import ResNetGenerator
from safetensors.torch import save_file
from torch import nn

from siamese import factory
from siamese.checkpoints.formats import fill, load_backbone, recognise
from siamese.errors import UserError


def resnet(name="resnet50", fc=None):
    torch.manual_seed(5)
    net = torchvision.models.get_model(name)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    if fc is not None:
        net.fc = fc
    return net


def mlp(*dims):
    layers = []
    for a, b in itertools.pairwise(dims):
        layers += [nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def prefixed(prefix, module):
    return {prefix + k: v for k, v in module.state_dict().items()}


def moco_v2(net):
    net.fc = nn.Sequential(nn.Linear(net.fc.in_features, 16), nn.ReLU(), nn.Linear(16, 8))
    state = prefixed("module.encoder_q.", net) | prefixed("module.encoder_k.", resnet("resnet18"))
    state |= {"module.queue": torch.randn(8, 64), "module.queue_ptr": torch.zeros(1, dtype=torch.int64)}
    return {"epoch": 200, "arch": "resnet50", "state_dict": state, "optimizer": {"state": {}, "param_groups": []}}


def moco_v3(net):
    net.fc = mlp(net.fc.in_features, 16, 8)
    state = prefixed("module.base_encoder.", net) | prefixed("module.momentum_encoder.", resnet("resnet18"))
    state |= prefixed("module.predictor.", mlp(8, 16, 8))
    return {"epoch": 100, "arch": "resnet50", "state_dict": state, "optimizer": {}, "scaler": {}}


def simsiam(net):
    net.fc = mlp(net.fc.in_features, 16, 8)
    return {"state_dict": prefixed("module.encoder.", net) | prefixed("module.predictor.", mlp(8, 16, 8)), "epoch": 99}


def solo_learn(net):
    net.fc = nn.Identity()
    state = prefixed("backbone.", net) | prefixed("momentum_backbone.", resnet("resnet18"))
    state |= prefixed("classifier.", nn.Linear(4, 10))
    return {"state_dict": state | prefixed("projector.", mlp(4, 4)), "pytorch-lightning_version": "1.6"}


def lightly(net):
    state = prefixed("backbone.", nn.Sequential(*list(net.children())[:-1])) | prefixed("projection_head.", mlp(4, 4))
    return {"state_dict": state}


def linear_file(net):
    return {"state_dict": prefixed("module.", net), "best_acc1": torch.tensor(67.0)}


def plain(net):
    return net.state_dict()


LAYOUTS = {
    moco_v2: "official MoCo v1 or v2",
    moco_v3: "official MoCo v3",
    simsiam: "official SimSiam",
    solo_learn: "Lightning file of solo-learn",
    lightly: "Lightning file (solo-learn, lightly), numbered children",
    linear_file: "DataParallel",
    plain: "plain state dict",
}


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda f: f.__name__)
def test_layout_gives_torchvisions_features_bit_by_bit(config, layout):
    source = resnet()
    expected = {k: v.clone() for k, v in source.state_dict().items() if not k.startswith("fc.")}
    kind, found = recognise("f", layout(source))
    assert kind.startswith(LAYOUTS[layout]) or LAYOUTS[layout] in kind
    assert len(found) == len(expected) == 318
    backbone = factory.backbone(config("backbone=resnet50"))
    fill("f", kind, backbone, found)
    reference = torchvision.models.resnet50()
    reference.fc = nn.Identity()
    reference.load_state_dict(expected)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(backbone.eval()(x), reference.eval()(x))


@pytest.mark.parametrize("prefix", ["backbone.", "encoder."])
def test_solo_learn_small_stem_needs_padding_of_two(config, tmp_path, prefix):
    """Their BaseMethod: Conv2d(3, 64, 3, 1, padding=2). With padding 1 the tensors fit and the features differ."""
    source = resnet("resnet18", nn.Identity())
    source.conv1, source.maxpool = nn.Conv2d(3, 64, 3, 1, 2, bias=False), nn.Identity()
    file = str(tmp_path / "solo.ckpt")
    torch.save({"state_dict": prefixed(prefix, source) | prefixed("classifier.", nn.Linear(512, 10))}, file)
    with pytest.raises(
        UserError, match=r"init_from=.*of solo-learn.*pads by 2.*unless that is said; add backbone.stem_padding=2$"
    ):
        load_backbone(factory.backbone(config("backbone=resnet18_small")), file, "init_from")
    x = torch.randn(2, 3, 32, 32)
    for padding, same in ((2, True), (1, False)):
        backbone = factory.backbone(config("backbone=resnet18_small", f"backbone.stem_padding={padding}"))
        assert "of solo-learn" in load_backbone(backbone, file, "init_from")
        with torch.no_grad():
            assert torch.equal(backbone.eval()(x), source.eval()(x)) is same
    with pytest.raises(UserError, match="backbone.stem_padding=2: the 7x7 stem has its own"):
        factory.backbone(config("backbone=resnet18", "backbone.stem_padding=2"))


def test_moco_v3_vit_small_needs_twelve_heads(config, tmp_path):
    """Their vits.py; with timm's six the tensors fit and the features differ."""
    torch.manual_seed(1)
    name = "vit_small_patch16_224"
    source = timm.create_model(name, num_classes=0, num_heads=12)
    file = str(tmp_path / "vit-s.pth.tar")
    head = prefixed("module.base_encoder.head.", mlp(384, 16, 8))
    torch.save({"state_dict": prefixed("module.base_encoder.", source) | head, "arch": "vit_small"}, file)
    with pytest.raises(UserError, match=r"has 12 heads, this backbone 6; add backbone.heads=12$"):
        load_backbone(factory.backbone(config("backbone=vit_small", "data.crop=224")), file, "init_from")
    load_backbone(
        factory.backbone(config("backbone=vit_small", "backbone.heads=12", "data.crop=224")), file, "init_from"
    )
    timms = ("backbone=timm", f"backbone.name={name}", "data.crop=224")
    with pytest.raises(UserError, match=r"has 12 heads, this backbone 6; add \+backbone.options.num_heads=12"):
        load_backbone(factory.backbone(config(*timms)), file, "init_from")
    backbone = factory.backbone(config(*timms, "+backbone.options.num_heads=12"))
    load_backbone(backbone, file, "init_from")
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(backbone.eval()(x), source.eval()(x))


def vit_small(heads=6):
    torch.manual_seed(1)
    return timm.create_model("vit_small_patch16_224", num_classes=0, num_heads=heads, depth=2)


def mae_file(net):
    """With its decoder beside the encoder; the position embedding is in the file, too."""
    decoder = {"mask_token": torch.randn(1, 1, 8), "decoder_pos_embed": torch.randn(1, 197, 8)}
    decoder |= prefixed("decoder_embed.", nn.Linear(384, 8)) | prefixed("decoder_blocks.0.norm1.", nn.LayerNorm(8))
    return {"model": net.state_dict() | decoder | prefixed("decoder_pred.", nn.Linear(8, 768))}


def dino_file(net):
    """The full file: a wrapped student, and a teacher without a wrapper."""
    head = mlp(384, 16)
    student = prefixed("module.backbone.", vit_small(12)) | prefixed("module.head.", head)
    return {"student": student, "teacher": prefixed("backbone.", net) | prefixed("head.", head), "epoch": 100}


def dino_wrapped(net):
    return {"teacher": prefixed("module.backbone.", net) | prefixed("module.head.", mlp(384, 16))}


VITS = {
    mae_file: "MAE, plain",
    dino_file: "official DINO, the teacher",
    dino_wrapped: "file of DistributedDataParallel (DINO",
    plain: "plain",
}


@pytest.mark.parametrize("layout", VITS, ids=lambda f: f.__name__)
def test_files_of_vision_transformers_fit_ours(config, tmp_path, layout):
    source = vit_small().eval()
    torch.save(layout(source), tmp_path / "f.pth")
    backbone = factory.backbone(config("backbone=vit_small", "backbone.depth=2", "data.crop=224")).eval()
    assert load_backbone(backbone, str(tmp_path / "f.pth"), "ckpt").startswith(VITS[layout])
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(backbone(x), source(x))


@pytest.mark.parametrize("splits", [0, 2])
def test_small_resnet_of_lightly_benchmark_is_loaded(config, tmp_path, splits):
    """As its cifar10_benchmark.py builds it: the children in a row, pooled."""
    torch.manual_seed(2)
    resnet18 = ResNetGenerator("resnet-18", num_splits=splits)
    source = nn.Sequential(*list(resnet18.children())[:-1], nn.AdaptiveAvgPool2d(1))
    x = torch.randn(4, 3, 32, 32)
    source(x)  # running statistics
    file = str(tmp_path / "lightly.ckpt")
    torch.save({"state_dict": prefixed("backbone.", source) | prefixed("projection_head.", mlp(512, 4))}, file)
    backbone = factory.backbone(config("backbone=lightly", f"backbone.num_splits={splits}"))
    assert backbone.feature_dim == 512
    load_backbone(backbone, file, "ckpt")
    with torch.no_grad():
        assert torch.equal(backbone.eval()(x), source.eval()(x).flatten(1))
    with pytest.raises(UserError, match="66 missing: .*name the right one, as in backbone=lightly"):
        load_backbone(factory.backbone(config("backbone=resnet18_small")), file, "init_from")
    with pytest.raises(UserError, match="backbone.name=resnet18: lightly has no such ResNet"):
        factory.backbone(config("backbone=lightly", "backbone.name=resnet18"))


def test_timm_vit_is_loaded(config):
    torch.manual_seed(1)
    source = timm.create_model("vit_tiny_patch16_224", num_classes=7)
    kind, found = recognise("f", source.state_dict())
    backbone = factory.backbone(config("backbone=timm", "backbone.name=vit_tiny_patch16_224", "data.crop=224"))
    fill("f", kind, backbone, found)
    source.reset_classifier(0)
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(backbone.eval()(x), source.eval()(x))


def test_timm_norm_in_the_head_belongs_to_the_backbone(config, tmp_path):
    torch.manual_seed(1)
    source = timm.create_model("convnext_atto", num_classes=7)
    torch.nn.init.uniform_(source.head.norm.weight)
    torch.save(source.state_dict(), tmp_path / "f.pt")
    backbone = factory.backbone(config("backbone=timm", "backbone.name=convnext_atto", "data.crop=32"))
    load_backbone(backbone, str(tmp_path / "f.pt"), "ckpt")
    source.reset_classifier(0)
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(backbone.eval()(x), source.eval()(x))


def test_misfit_tensors_are_listed(config):
    backbone = factory.backbone(config("backbone=resnet50"))
    kind, found = recognise("f", simsiam(resnet()))
    missing = {k: v for k, v in found.items() if k != "bn1.weight"}
    with pytest.raises(UserError, match="1 missing: bn1.weight"):
        fill("f", kind, backbone, missing)
    with pytest.raises(UserError, match="1 left over: more"):
        fill("f", kind, backbone, {**found, "more": torch.zeros(1)})
    with pytest.raises(UserError, match=r"1 of another shape: conv1.weight \(64, 3, 3, 3\) for \(64, 3, 7, 7\)"):
        fill("f", kind, backbone, {**found, "conv1.weight": torch.zeros(64, 3, 3, 3)})
    with pytest.raises(UserError, match="official SimSiam, 318 tensors"):
        fill("f", kind, factory.backbone(config("backbone=resnet18")), found)
    with pytest.raises(UserError, match="init_from=f: holds no named tensors"):
        recognise("f", {"epoch": 3, "model": {"x": 1}}, "init_from")


@pytest.mark.parametrize("suffix", ["pth.tar", "safetensors"])
def test_third_party_file_is_evaluated(evaluation, tmp_path, suffix):
    file = tmp_path / f"checkpoint.{suffix}"
    source = resnet("resnet18")
    if suffix == "safetensors":
        save_file({k: v.contiguous() for k, v in source.state_dict().items()}, file)
    else:
        torch.save(simsiam(source), file)
    told = r"was not written by train.py .*120 tensors.*as in backbone=resnet50 data=imagenet"
    with pytest.raises(UserError, match=told):
        evaluation(file)
    with pytest.raises(UserError, match="^dta=digits: no such key; "):
        evaluation(file, "foreign=[backbone:resnet18,dta:digits]")
    made = evaluation(file, "eval.linear.epochs=2", "foreign=[backbone:resnet18,data:digits]")
    results = made.run()
    kind = "plain state dict" if suffix == "safetensors" else "official SimSiam"
    assert results["format"].startswith(kind)
    assert 0 < results["knn_top1"] <= 1
    assert json.loads((tmp_path / "e" / "results.json").read_text())["epochs"] is None
    trained = source.state_dict()
    assert all(torch.equal(v, trained[k]) for k, v in made.rows[-1].network.state_dict().items())


@pytest.mark.parametrize("kind", ["complex", "int8", "sparse", "meta", "half"])
def test_weights_must_be_plain_numbers(kind):
    net = nn.Linear(3, 2)
    found = {k: v.clone() for k, v in net.state_dict().items()}
    weight = found["weight"]
    found["weight"] = {
        "complex": lambda: weight + 1j, "int8": lambda: weight.to(torch.int8), "sparse": weight.to_sparse,
        "meta": lambda: weight.to("meta"), "half": weight.half,
    }[kind]()  # fmt: skip
    if kind == "half":
        fill("f", "x", net, found)
        return
    with pytest.raises(UserError, match="1 of another type: weight"):
        fill("f", "x", net, found)
