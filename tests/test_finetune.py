"""Fine-tuning and few labels."""

from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from sklearn.metrics import log_loss
from torch import nn

from siamese import build
from siamese.augment import CleanView
from siamese.data import DataSet, Part
from siamese.errors import UserError
from siamese.evaluation import FeatureCache, LinearGrid
from siamese.evaluation.finetune import Classifier, FineTune, Score, best_of, layer_groups, score
from siamese.evaluation.linear import Standardised
from siamese.evaluation.lowshot import LowShot, choose, few, folds, listed
from siamese.evaluation.subject import PARTS, Subject

TUNING = dict(
    lrs=[1.0], scaling="linear", weight_decay=0.0, batch_size=32, epochs=4, warmup_epochs=0, layer_decay=1.0,
    crop_scale=[0.8, 1.0], interpolation="bilinear", flip=0.0, seed=0,
)  # fmt: skip


@pytest.fixture
def subject(config):
    """An untrained network and images whose class is their brightest quarter."""

    def make():
        torch.manual_seed(0)
        labels = torch.arange(240) % 4
        images = torch.randint(0, 100, (240, 3, 8, 8), dtype=torch.uint8)
        for i, label in enumerate(labels.tolist()):
            top, left = divmod(label, 2)
            images[i, :, 4 * top : 4 * top + 4, 4 * left : 4 * left + 4] += 100
        part = Part(images, labels)
        data = DataSet("quarters", part.subset(torch.arange(160)), part.subset(torch.arange(160, 240)), list("abcd"))
        cfg = config("backbone.widths=[8,16]", "method=simsiam")
        loading = build.Loading.of(cfg, torch.device("cpu"))
        loaders = {p: loading.loader(getattr(data, p), 64, shuffle=False) for p in PARTS}
        network = build.backbone(cfg).requires_grad_(False).eval()
        augment = build.plain(cfg.augment)
        return Subject(
            "x", network, build.clean_view(cfg), augment, data, loading, loaders, 64, FeatureCache(None, 100)
        )

    return make


def test_fine_tuning_trains_a_copy(subject):
    s = subject()
    before = {k: v.clone() for k, v in s.network.state_dict().items()}
    found = FineTune(**TUNING).evaluate(s)
    assert found["top1"] > 0.9
    assert "chosen" not in found
    assert all(torch.equal(v, before[k]) for k, v in s.network.state_dict().items())
    assert not any(p.requires_grad for p in s.network.parameters())


def test_of_several_rates_the_validation_part_chooses(subject):
    s = subject()
    found = FineTune(**{**TUNING, "lrs": [1e-6, 1.0]}).evaluate(s)
    assert found["chosen"]["lr"] == found["lr"] == 1.0
    s.data.test.labels = s.data.test.labels.flip(0)
    assert FineTune(**{**TUNING, "lrs": [1e-6, 1.0]}).evaluate(s)["chosen"] == found["chosen"]


def test_the_optimiser_is_the_papers(subject, monkeypatch):
    """Nesterov, the rate by the batch, half a cosine, BatchNorm in train mode, the head from zero."""
    rates, modes = [], []
    original = torch.optim.SGD.step

    def step(self, *args):
        group = self.param_groups[0]
        assert group["nesterov"]
        assert group["momentum"] == 0.9
        rates.append(group["lr"])
        return original(self, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    monkeypatch.setattr(
        nn.Linear, "forward", lambda s, x: modes.append(s.training) or nn.functional.linear(x, s.weight, s.bias)
    )
    found = FineTune(**{**TUNING, "lrs": [0.05], "epochs": 2}).evaluate(subject())
    assert found["rate"] == rates[0]
    steps = 2 * (160 // 32)
    expected = [
        0.05 * 32 / 256 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * i / steps)).item()) for i in range(steps)
    ]
    assert rates == pytest.approx(expected)
    assert modes[:steps] == [True] * steps
    assert not any(modes[steps:])
    assert Classifier(subject().network, 4).head.weight.abs().sum() == 0


@pytest.mark.parametrize(("scaling", "rate"), [("none", 0.1), ("linear", 0.1 * 160 / 256)])
def test_the_rate_of_fewer_images_than_a_batch(subject, monkeypatch, scaling, rate):
    """All of them are a step; `none` takes the rate as it is, whatever their number."""
    rates = []
    original = torch.optim.SGD.step
    monkeypatch.setattr(
        torch.optim.SGD, "step", lambda self, *a: rates.append(self.param_groups[0]["lr"]) or original(self, *a)
    )
    change = {"lrs": [0.1], "scaling": scaling, "batch_size": 1000, "epochs": 1}
    found = FineTune(**{**TUNING, **change}).evaluate(subject())
    assert rates == [pytest.approx(rate)]
    assert (found["batch_size"], found["rate"]) == (160, pytest.approx(rate))


def test_scores_are_scikit_learns_and_leave_unknown_labels_out(subject):
    s = subject()
    network = Classifier(s.network, 4)
    nn.init.normal_(network.head.weight)
    network.eval()
    test = s.data.test
    test.labels = test.labels.clone()
    test.labels[:5] = -1
    with torch.no_grad():
        p = network(s.view(test.images)).double().softmax(1)[5:]
    found = score(network, s.loading.loader(test, 32, shuffle=False), s.view, torch.device("cpu"))
    assert found.images == 75
    assert found.right == (p.argmax(1) == test.labels[5:]).sum()
    assert found.loss == pytest.approx(75 * log_loss(test.labels[5:], p, labels=range(4)), rel=1e-4)


def test_among_equals_the_lowest_loss_is_best():
    lost = Score(7, float("nan"), 8)
    assert best_of([Score(5, 1.0, 8), Score(6, 9.0, 8), Score(6, 8.0, 8), lost]) == 2
    assert best_of([lost, Score(1, 99.0, 8)]) == 1


def test_what_is_scored_is_resized_as_the_crops_are(subject, config, monkeypatch):
    s, seen = subject(), []
    original = CleanView.forward
    monkeypatch.setattr(CleanView, "forward", lambda v, *a: seen.append(v.interpolation) or original(v, *a))
    FineTune(**{**TUNING, "epochs": 1, "interpolation": "bicubic"}).evaluate(s)
    simclr = config("eval/linear_crops=simclr", "eval.linear_crops.epochs=1", name="eval_linear")
    with torch.no_grad():
        build.make(simclr.eval.linear_crops).evaluate(s)
    assert set(seen) == {"bicubic"}
    assert s.view.interpolation == "bilinear"
    s.features("test")
    assert seen[-1] == "bilinear"
    count = len(seen)
    s.features("test", "bicubic")
    s.features("test")
    assert len(seen) == count


def test_layer_decay_of_a_resnet():
    network = torchvision.models.resnet18(num_classes=3)
    network.fc = nn.Identity()
    groups = layer_groups(network, 0.5)
    assert [g["scale"] for g in groups] == [0.5**6, 0.5**5, 0.5**4, 0.5**3, 0.5**2, 0.5]  # conv1, bn1, layer1 to layer4
    assert groups[0]["params"][0] is network.conv1.weight
    assert sum(len(g["params"]) for g in groups) == len(list(network.parameters()))


def test_layer_decay_of_a_vision_transformer():
    network = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    groups = layer_groups(network, 0.75)
    last = next(i for i, g in enumerate(groups) if any(p is network.blocks[11].attn.qkv.weight for p in g["params"]))
    first = next(i for i, g in enumerate(groups) if any(p is network.blocks[0].attn.qkv.weight for p in g["params"]))
    assert last - first == 11
    assert groups[last]["scale"] == pytest.approx(groups[first]["scale"] / 0.75**11)
    assert len({id(p) for g in groups for p in g["params"]}) == len(list(network.parameters()))


RATES = [1e-6, 0.3, 3.0]


def test_few_labels_are_stratified_and_seeded():
    labels = torch.tensor([0] * 50 + [1] * 100 + [2] * 7 + [-1] * 20)
    chosen = few(labels, 0.1, 0)
    assert labels[chosen].bincount().tolist() == [5, 10, 1]
    assert torch.equal(chosen, few(labels, 0.1, 0))
    assert not torch.equal(chosen, few(labels, 0.1, 1))
    assert labels[few(labels, 0.001, 0)].tolist() == [0, 1, 2]  # at least one a class


def test_folds_are_of_one_size_and_spread_the_classes():
    labels = torch.tensor([0] * 10 + [1] * 5 + [2] + [3] * 2)
    fold = folds(labels, 5, 0)
    assert fold[15] == -1  # the only one of its class always trains
    assert sorted(fold[fold >= 0].bincount().tolist()) == [3, 3, 3, 4, 4]
    assert fold[16] != fold[17]
    assert fold[:10].bincount().tolist() == [2] * 5
    assert fold[10:15].bincount().tolist() == [1] * 5


def test_listed_labels(tmp_path):
    files = [Path(f"/data/n0{i % 2}/n0{i % 2}_{i}.JPEG") for i in range(6)]
    (tmp_path / "1percent.txt").write_text("n00_4.JPEG\nn01_1.JPEG\n")
    assert listed(tmp_path / "1percent.txt", Part(files, torch.arange(6) % 2)).tolist() == [1, 4]
    (tmp_path / "index.txt").write_text("5\n2\n")
    assert listed(tmp_path / "index.txt", Part(torch.zeros(6, 3, 1, 1), torch.arange(6))).tolist() == [2, 5]
    with pytest.raises(UserError, match="names 1 of 2 images that are not in the training part: n01_1"):
        listed(tmp_path / "1percent.txt", Part(files[2:], torch.zeros(4)))
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"binary.txt: is no text"):
        listed(tmp_path / "binary.txt", Part(files, torch.zeros(6)))
    with pytest.raises(UserError, match=r"eval.lowshot.lists=nowhere.txt: is not a file"):
        listed("nowhere.txt", Part(files, torch.zeros(6)))
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(UserError, match=r"empty.txt: is empty"):
        listed(tmp_path / "empty.txt", Part(files, torch.zeros(6)))


def test_listed_numbers_are_those_of_the_published_order(tmp_path):
    """Whatever was held out of it, and in whatever order its parts are put together again."""
    images = torch.arange(40, dtype=torch.uint8).view(40, 1, 1, 1).expand(40, 3, 1, 1)
    (tmp_path / "list.txt").write_text("3\n17\n39\n")
    data = DataSet("x", Part(images, torch.arange(40) % 4), None, ["a", "b", "c", "d"], val_fraction=0.5, split_seed=1)
    part = data.fit.plus(data.val)
    assert not torch.equal(part.images, images)
    assert part.images[listed(tmp_path / "list.txt", part), 0, 0, 0].sort().values.tolist() == [3, 17, 39]
    apart = DataSet("x", Part(images[:30], torch.zeros(30)), None, ["a"], val=Part(images[30:], torch.zeros(10)))
    part = apart.fit.plus(apart.val)
    assert part.images[listed(tmp_path / "list.txt", part), 0, 0, 0].tolist() == [3, 17, 39]


def test_listed_labels_of_files_with_equal_names(tmp_path):
    part = Part([Path(f"/data/{c}/{i} x.png") for c in "ab" for i in range(3)], torch.zeros(6))
    (tmp_path / "list.txt").write_text("a/2 x.png\nb/0 x.png\n")
    assert listed(tmp_path / "list.txt", part).tolist() == [2, 3]
    (tmp_path / "list.txt").write_text("2 x.png\n")
    with pytest.raises(UserError, match=r"list.txt: 2 x.png is the name of several images; name the folder too"):
        listed(tmp_path / "list.txt", part)
    (tmp_path / "list.txt").write_text("c/2 x.png\n")
    with pytest.raises(UserError, match=r"names 1 of 1 images .*: c/2 x.png"):
        listed(tmp_path / "list.txt", part)


def test_few_labels_know_nothing_of_the_others(subject, tmp_path):
    """With all other labels wrong, nothing changes."""
    (tmp_path / "mine.txt").write_text("\n".join(str(i) for i in range(24)))
    protocol = LowShot([0.1], [str(tmp_path / "mine.txt")], [0, 1], True, RATES, [6, 6], "cross_validation")
    grid = LinearGrid([0.01, 0.3], [0.0], epochs=20, batch_size=16, seed=0)
    s = subject()
    found = protocol.evaluate(s, grid, FineTune(**TUNING))
    assert set(found) == {"10%", "mine"}
    assert found["10%"]["images"] == 16
    assert found["mine"]["images"] == 24
    for way in ("linear", "finetuned"):
        assert len(found["10%"][way]["values"]) == 2
        assert found["10%"][way]["interval95"] is not None
    assert found["mine"]["linear"]["mean"] > 0.4  # chance is 0.25
    assert [c["by"] for c in found["mine"]["finetuned"]["chosen"]] == ["cross_validation"] * 2
    other = subject()
    for name, part in (("fit", other.data.fit), ("val", other.data.val)):
        wrong = part.labels.clone()
        others = part.origin >= 24
        wrong[others] = (wrong[others] + 1) % 4
        part.labels = wrong
        other.loaders[name] = other.loading.loader(part, 64, shuffle=False)
    mine = LowShot([], [str(tmp_path / "mine.txt")], [0, 1], True, RATES, [6], "cross_validation")
    assert mine.evaluate(other, grid, FineTune(**TUNING)) == {"mine": found["mine"]}


def test_one_label_a_class_chooses_nothing(subject):
    """The middle of the lists, and it is said; where one class has two labels these alone are held out."""
    grid = LinearGrid([0.01, 0.1, 0.3], [0.0, 0.01], epochs=20, batch_size=16, seed=0)
    s = subject()
    protocol = LowShot([1 / 60], [], [0, 1], True, RATES, [[1, 2]], "cross_validation")
    all_found = protocol.evaluate(s, grid, FineTune(**TUNING))
    found = all_found["1.66667%"]
    assert found["images"] == 4
    assert found["linear"]["chosen"] == [{"lr": 0.1, "weight_decay": 0.01, "validation_top1": None}] * 2
    middle = {"lr": 0.3, "epochs": 2, "by": "fixed", "validation_top1": None, "rate": pytest.approx(0.3 * 4 / 256)}
    assert found["finetuned"]["chosen"] == [middle] * 2
    (said,) = protocol.remarks(all_found, "linear", FineTune(**TUNING))
    assert (
        "1.66667% of the labels, linear: one label a class chooses nothing; lr 0.1 and weight decay 0.01, the" in said
    )
    first, second = protocol.remarks(all_found, "finetuned", FineTune(**TUNING))
    assert "fine-tuned: one label a class chooses nothing; lr 0.3 and 2 epochs, the middle of the lists, in" in first
    assert "fewer images than a batch of 32; rates are scaled by 4 / 256" in second
    assert not LowShot([1 / 60], [], [0, 1], True, [0.3], [2], "cross_validation").remarks(
        {"1.66667%": {"finetuned": {**found["finetuned"], "epochs": 2}}}, "finetuned",
        FineTune(**{**TUNING, "scaling": "none"}),
    )  # fmt: skip
    whole = s.whole()
    index = torch.cat([(whole.y == c).nonzero()[: 2 if c == 1 else 1, 0] for c in range(4)])
    chosen = choose(whole.subset(index), grid, 4, 0)
    held_out = []
    for i in (1, 2):  # the two of class 1, by hand
        rest = whole.subset(index[torch.arange(5) != i])
        moments = rest.moments()
        weight = grid.train(Standardised(rest, moments), 4, grid.settings())
        x = F.pad((whole.x[index[i]] - moments[0]) / moments[1], (0, 1), value=1.0)
        held_out.append((torch.einsum("d,hdc->hc", x, weight).argmax(1) == 1).float())
    top1 = torch.stack(held_out).mean(0)
    assert chosen.top1 == top1.max()
    assert top1[grid.settings().index((chosen.lr, chosen.weight_decay))] == chosen.top1


def test_few_labels_are_cross_validated(subject, monkeypatch):
    """Five times four fifths train all settings, the rest chooses; then the chosen one sees all."""
    seen = []
    original = LinearGrid.train

    def train(self, fit, classes, settings):
        seen.append((len(fit), len(settings)))
        return original(self, fit, classes, settings)

    monkeypatch.setattr(LinearGrid, "train", train)
    grid = LinearGrid([0.01, 0.3], [0.0], epochs=2, batch_size=16, seed=0)
    protocol = LowShot([0.25], [], [0], False, [1.0], [1], "cross_validation")
    protocol.evaluate(subject(), grid, FineTune(**TUNING))
    assert seen == [(32, 2)] * 5 + [(40, 1)]


def test_few_label_tunings_are_cross_validated(subject, monkeypatch):
    """Each half of the few, every class in both, is scored once for every setting by what the other half taught; the
    best over both, counted by hand, then learns from all of them. No other image is touched before the test part."""
    seen = []
    original = FineTune.score

    def spy(self, s, on, test, lr, epochs, seed):
        out = original(self, s, on, test, lr, epochs, seed)
        seen.append((on, test, (lr, epochs), out))
        return out

    monkeypatch.setattr(FineTune, "score", spy)
    s = subject()
    part = s.all_training(marked=False)
    chosen_few = part.subset(few(part.labels, 0.2, 3))
    grid = LinearGrid([0.1], [0.0], epochs=1, batch_size=16, seed=0)
    protocol = LowShot([0.2], [], [3], True, [1e-6, 1.0, 100.0], [[1, 8]], "cross_validation")
    found = protocol.evaluate(s, grid, FineTune(**TUNING))["20%"]["finetuned"]
    tried, (last,) = seen[:-1], seen[-1:]
    options = [(lr, n) for lr in (1e-6, 1.0, 100.0) for n in (1, 8)]
    assert [t[2] for t in tried] == [o for o in options for _ in range(2)]
    mine = set(chosen_few.origin.tolist())
    right = dict.fromkeys(options, 0)
    for on, held_out, option, out in tried:
        assert set(on.origin.tolist()) | set(held_out.origin.tolist()) == mine
        assert not set(on.origin.tolist()) & set(held_out.origin.tolist())
        assert min(on.labels.bincount(minlength=4)) > 0
        right[option] += out.right
    halves = [set(t[1].origin.tolist()) for t in tried[:2]]
    assert halves[0] | halves[1] == mine
    assert abs(len(halves[0]) - len(halves[1])) <= 1
    (chosen,) = found["chosen"]
    assert right[chosen["lr"], chosen["epochs"]] == max(right.values()) > right[1e-6, 1]
    assert chosen["validation_top1"] == pytest.approx(max(right.values()) / len(mine))
    assert chosen["by"] == "cross_validation"
    assert chosen["rate"] == pytest.approx(chosen["lr"] * 32 / 256)
    assert set(last[0].origin.tolist()) == mine
    assert last[1] is s.data.test
    assert last[2] == (chosen["lr"], chosen["epochs"])
    s.data.test.labels = s.data.test.labels.flip(0)
    assert protocol.evaluate(s, grid, FineTune(**TUNING))["20%"]["finetuned"]["chosen"] == [chosen]


def test_two_few_labels_cannot_be_divided(subject, tmp_path):
    """A half of one image would leave BatchNorm nothing to normalise by."""
    s = subject()
    part = s.all_training(marked=False)
    two = part.origin[(part.labels == 1).nonzero()[:2, 0]].tolist()
    (tmp_path / "two.txt").write_text("\n".join(map(str, two)))
    protocol = LowShot([], [str(tmp_path / "two.txt")], [0], True, RATES, [1], "cross_validation")
    grid = LinearGrid([0.1], [0.0], epochs=1, batch_size=16, seed=0)
    (chosen,) = protocol.evaluate(s, grid, FineTune(**TUNING))["two"]["finetuned"]["chosen"]
    assert (chosen["lr"], chosen["by"]) == (0.3, "fixed")


def test_of_several_few_label_tunings_the_validation_part_chooses(subject, monkeypatch):
    """As in BYOL's paper; what is tried sees no validation image, what is scored all of the few."""
    seen = []
    original = FineTune.score

    def spy(self, s, on, test, lr, epochs, seed):
        seen.append(
            (len(on), set(on.origin.tolist()) & set(s.data.val.origin.tolist()), test is s.data.val, lr, epochs)
        )
        return original(self, s, on, test, lr, epochs, seed)

    monkeypatch.setattr(FineTune, "score", spy)
    grid = LinearGrid([0.1], [0.0], epochs=1, batch_size=16, seed=0)
    protocol = LowShot([0.5], [], [0], True, [1e-6, 1.0], [[1, 8]], "validation_part")
    s = subject()
    found = protocol.evaluate(s, grid, FineTune(**TUNING))["50%"]["finetuned"]
    tried, (last,) = seen[:-1], seen[-1:]
    assert [t[3:] for t in tried] == [(1e-6, 1), (1e-6, 8), (1.0, 1), (1.0, 8)]
    assert all(t[0] < 80 and not t[1] and t[2] for t in tried)
    assert last[0] == 80
    assert last[1]
    assert not last[2]
    (chosen,) = found["chosen"]
    assert (chosen["lr"], chosen["epochs"]) == (1.0, 8) == last[3:]
    assert chosen["validation_top1"] > 0.8
    assert chosen["by"] == "validation_part"
    s.data.test.labels = s.data.test.labels.flip(0)
    assert protocol.evaluate(s, grid, FineTune(**TUNING))["50%"]["finetuned"]["chosen"] == [chosen]


@pytest.mark.parametrize(
    ("preset", "by", "full", "ten", "lengths"),
    [
        ("default", "cross_validation", [0.003, 0.01, 0.03, 0.1, 0.3], [0.003, 0.01, 0.03, 0.1, 0.3], 1),
        ("simclr", "cross_validation", [0.8], [0.05 * 10 / 256], 1),
        ("byol", "validation_part", [0.04, 0.08, 0.2, 0.4, 0.02], None, 2),
    ],
)
def test_few_label_presets(config, preset, by, full, ten, lengths):
    """Their rates of a step, on so many images as SimCLR's 1 % of ImageNet, and on ten."""
    cfg = config(f"eval/lowshot={preset}", "eval=lowshot", name="eval_linear").eval
    tuning, protocol = build.make(cfg.finetune), build.make(cfg.lowshot)
    assert protocol.chosen_by == by
    assert [tuning.rate(lr, 12811) for lr in protocol.lrs] == pytest.approx(full)
    if ten is not None:
        assert [tuning.rate(lr, 10) for lr in protocol.lrs] == pytest.approx(ten)
    assert all(len(n if isinstance(n, list) else [n]) == lengths for n in protocol.epochs)
    assert cfg.protocols == ["lowshot"]


VALID = dict(
    fractions=[0.1], lists=[], seeds=[0], fine_tune=False, lrs=[1], epochs=[1], chosen_by="cross_validation"
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"fractions": [0.0]}, r"fractions=\[0.0\]"),
        ({"seeds": []}, "seeds="),
        ({"epochs": [], "fine_tune": True}, "epochs="),
        ({"epochs": [1, 2], "fine_tune": True}, "one length for each"),
        ({"epochs": [0]}, r"epochs=\[0\]"),
        ({"epochs": [[3, 0]]}, r"epochs=\[\[3,0\]\]"),
        ({"epochs": [[]]}, r"epochs=\[\[\]\]"),
        ({"lrs": [0]}, r"lrs=\[0\]"),
        ({"lrs": []}, r"lrs=\[\]: not a possible value; give a list of numbers"),
        ({"chosen_by": "test"}, "chosen_by=test: not a possible value; give cross_validation or validation_part"),
        ({"lists": ["nowhere.txt"], "epochs": [1, 1]}, "nowhere.txt: is not a file"),
    ],
)
def test_impossible_low_shots(built, change, says):
    with pytest.raises(UserError, match=says):
        built("eval.lowshot", "siamese.evaluation.lowshot.LowShot", **{**VALID, **change})


@pytest.mark.parametrize("change", [{"lrs": []}, {"layer_decay": 1.5}, {"scaling": "no"}, {"epochs": 0}])
def test_impossible_fine_tunings(built, change):
    with pytest.raises(UserError, match=f"eval.finetune.{next(iter(change))}"):
        built("eval.finetune", "siamese.evaluation.finetune.FineTune", **{**TUNING, **change})
