"""Linear heads and fine-tuning on few labels."""

from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf

from siamese.config import make
from siamese.errors import UserError
from siamese.evaluation.few_labels import few
from siamese.evaluation.protocols.finetune import Tuning
from siamese.evaluation.protocols.linear import Linear
from siamese.evaluation.protocols.lowshot import LowShot, select_head
from siamese.options import options
from siamese.probes import LinearGrid
from siamese.probes.linear import Standardised
from siamese.schema import check_eval

TUNING = dict(
    scaling="linear", weight_decay=0.0, batch_size=32, warmup_epochs=0, layer_decay=1.0, crop_scale=[0.8, 1.0],
    interpolation="bilinear", flip=0.0,
)  # fmt: skip
ONE_HEAD = Linear([0.1], [0.0], 1, 16, 0)
RATES = [1e-6, 0.3, 3.0]


def low_shot(**settings):
    """The protocol with settings of its own in place of these."""
    values = dict(
        fractions=[], lists=[], seeds=[0], fine_tune=True, lrs=RATES, epochs=[1], chosen_by="cross_validation",
        linear=ONE_HEAD, finetune=Tuning(**TUNING),
    )  # fmt: skip
    return LowShot(**{**values, **settings})


@dataclass
class RecordedTuning(Tuning):
    """Records (trained on, scored on, rate, epochs, score) of each fine-tuning."""

    seen: list = field(default_factory=list)

    def score(self, target, on, test, lr, epochs, seed):
        out = super().score(target, on, test, lr, epochs, seed)
        self.seen.append((on, test, lr, epochs, out))
        return out


class RecordedGrid(LinearGrid):
    """Records the numbers of samples and of heads of each training."""

    seen: list

    def train(self, fit, num_classes, settings):
        self.seen.append((len(fit), len(settings)))
        return super().train(fit, num_classes, settings)


class RecordedLinear(Linear):
    """Heads of one `RecordedGrid`."""

    @property
    def grid(self):
        if not hasattr(self, "made"):
            self.made = RecordedGrid(self.lrs, self.weight_decays, self.epochs, self.batch_size, self.seed)
            self.made.seen = []
        return self.made


def test_other_labels_have_no_influence(target, tmp_path):
    """With all other labels wrong, nothing changes."""
    (tmp_path / "mine.txt").write_text("\n".join(str(i) for i in range(24)))
    mine = str(tmp_path / "mine.txt")
    linear = Linear([0.01, 0.3], [0.0], 20, 16, 0)
    t = target()
    found = low_shot(fractions=[0.1], lists=[mine], seeds=[0, 1], epochs=[6, 6], linear=linear).evaluate(t)
    assert set(found) == {"10%", "mine"}
    assert found["10%"]["images"] == 16
    assert found["mine"]["images"] == 24
    for way in ("linear", "finetuned"):
        assert len(found["10%"][way]["values"]) == 2
        assert found["10%"][way]["interval95"] is not None
    assert found["mine"]["linear"]["mean"] > 0.4  # chance is 0.25
    assert [c["by"] for c in found["mine"]["finetuned"]["chosen"]] == ["cross_validation"] * 2
    other = target()
    for name in ("train_labeled", "val"):
        split = getattr(other.data, name)
        wrong = split.labels.clone()
        others = split.origin >= 24
        wrong[others] = (wrong[others] + 1) % 4
        split.labels = wrong
        other.loaders[name] = other.loading.loader(split, 64, shuffle=False)
    assert low_shot(lists=[mine], seeds=[0, 1], epochs=[6], linear=linear).evaluate(other) == {"mine": found["mine"]}


def test_single_label_per_class_takes_the_middle_settings(target):
    """And says so."""
    linear, said = Linear([0.01, 0.1, 0.3], [0.0, 0.01], 20, 16, 0), []
    protocol = low_shot(fractions=[1 / 60], seeds=[0, 1], epochs=[[1, 2]], linear=linear)
    found = protocol.evaluate(target(said))["1.66667%"]
    assert found["images"] == 4
    assert found["linear"]["chosen"] == [{"lr": 0.1, "weight_decay": 0.01, "validation_top1": None}] * 2
    middle = {"lr": 0.3, "epochs": 2, "by": "fixed", "validation_top1": None, "rate": pytest.approx(0.3 * 4 / 256)}
    assert found["finetuned"]["chosen"] == [middle] * 2
    heads, tuned, rates = said
    assert "1.66667% of the labels, linear: one label per class chooses nothing; lr 0.1 and weight decay 0.01" in heads
    assert "fine-tuned: one label per class chooses nothing; lr 0.3 and 2 epochs, the middle of the lists, in" in tuned
    assert "fewer images than a batch of 32; rates are scaled by 4 / 256" in rates


def test_single_setting_of_fine_tuning_needs_no_remark(target):
    said = []
    unscaled = Tuning(**{**TUNING, "scaling": "none"})
    low_shot(fractions=[1 / 60], lrs=[0.3], epochs=[2], finetune=unscaled).evaluate(target(said))
    assert [line for line in said if "fine-tuned" in line] == []


def test_only_classes_with_two_labels_are_held_out(target):
    grid = LinearGrid([0.01, 0.1, 0.3], [0.0, 0.01], epochs=20, batch_size=16, seed=0)
    whole = target().all_features()
    index = torch.cat([(whole.y == c).nonzero()[: 2 if c == 1 else 1, 0] for c in range(4)])
    chosen = select_head(whole.subset(index), grid, 4, 0)
    held_out = []
    for i in (1, 2):  # the two of class 1, one after the other
        rest = whole.subset(index[torch.arange(5) != i])
        moments = rest.moments()
        weight = grid.train(Standardised(rest, moments), 4, grid.settings())
        x = F.pad((whole.x[index[i]] - moments[0]) / moments[1], (0, 1), value=1.0)
        held_out.append((torch.einsum("d,hdc->hc", x, weight).argmax(1) == 1).float())
    top1 = torch.stack(held_out).mean(0)
    assert chosen.top1 == top1.max()
    assert top1[grid.settings().index((chosen.lr, chosen.weight_decay))] == chosen.top1


def test_linear_heads_are_cross_validated_in_five_folds(target):
    """Five times four fifths train all settings, the rest chooses; then the chosen one sees all."""
    linear = RecordedLinear([0.01, 0.3], [0.0], 2, 16, 0)
    low_shot(fractions=[0.25], fine_tune=False, linear=linear).evaluate(target())
    assert linear.grid.seen == [(32, 2)] * 5 + [(40, 1)]


def test_fine_tuning_is_cross_validated_in_two_folds(target):
    """Each half of the few, every class in both, is scored once for every setting by what the other half taught; the
    best over both, counted here, then learns from all of them. No other image is used before the test split."""
    tuning, t = RecordedTuning(**TUNING), target()
    split = t.all_training(mark_val=False)
    labelled = split.subset(few(split.labels, 0.2, 3))
    rates, lengths = [1e-6, 1.0, 100.0], [1, 8]
    protocol = low_shot(fractions=[0.2], seeds=[3], lrs=rates, epochs=[lengths], finetune=tuning)
    found = protocol.evaluate(t)["20%"]["finetuned"]
    tried, (last,) = tuning.seen[:-1], tuning.seen[-1:]
    pairs = [(lr, n) for lr in rates for n in lengths]
    assert [(lr, n) for _, _, lr, n, _ in tried] == [pair for pair in pairs for _ in range(2)]
    mine = set(labelled.origin.tolist())
    right = dict.fromkeys(pairs, 0)
    for on, held_out, lr, n, out in tried:
        assert set(on.origin.tolist()) | set(held_out.origin.tolist()) == mine
        assert not set(on.origin.tolist()) & set(held_out.origin.tolist())
        assert min(on.labels.bincount(minlength=4)) > 0
        right[lr, n] += out.right
    halves = [set(t[1].origin.tolist()) for t in tried[:2]]
    assert halves[0] | halves[1] == mine
    assert abs(len(halves[0]) - len(halves[1])) <= 1
    (chosen,) = found["chosen"]
    assert right[chosen["lr"], chosen["epochs"]] == max(right.values()) > right[1e-6, 1]
    assert chosen["validation_top1"] == pytest.approx(max(right.values()) / len(mine))
    assert chosen["by"] == "cross_validation"
    assert chosen["rate"] == pytest.approx(chosen["lr"] * 32 / 256)
    on, test, *setting, _ = last
    assert set(on.origin.tolist()) == mine
    assert test is t.data.test
    assert setting == [chosen["lr"], chosen["epochs"]]
    t.data.test.labels = t.data.test.labels.flip(0)
    assert protocol.evaluate(t)["20%"]["finetuned"]["chosen"] == [chosen]


def test_two_labels_cannot_be_divided_for_fine_tuning(target, tmp_path):
    """A half of one image would leave BatchNorm nothing to normalise by."""
    t = target()
    split = t.all_training(mark_val=False)
    two = split.origin[(split.labels == 1).nonzero()[:2, 0]].tolist()
    (tmp_path / "two.txt").write_text("\n".join(map(str, two)))
    (chosen,) = low_shot(lists=[str(tmp_path / "two.txt")]).evaluate(t)["two"]["finetuned"]["chosen"]
    assert (chosen["lr"], chosen["by"]) == (0.3, "fixed")


def test_validation_split_chooses_fine_tuning_if_asked_for(target):
    """As in BYOL's paper; what is tried sees no validation image, the chosen setting learns from all of the few."""
    tuning, t = RecordedTuning(**TUNING), target()
    protocol = low_shot(
        fractions=[0.5], lrs=[1e-6, 1.0], epochs=[[1, 8]], chosen_by="validation_part", finetune=tuning
    )  # fmt: skip
    found = protocol.evaluate(t)["50%"]["finetuned"]
    tried, (last,) = tuning.seen[:-1], tuning.seen[-1:]
    held_out = set(t.data.val.origin.tolist())
    assert [(lr, n) for _, _, lr, n, _ in tried] == [(1e-6, 1), (1e-6, 8), (1.0, 1), (1.0, 8)]
    for on, scored_on, *_ in tried:
        assert len(on) < 80
        assert not set(on.origin.tolist()) & held_out
        assert scored_on is t.data.val
    on, scored_on, *setting, _ = last
    assert len(on) == 80
    assert set(on.origin.tolist()) & held_out
    assert scored_on is t.data.test
    (chosen,) = found["chosen"]
    assert [chosen["lr"], chosen["epochs"]] == [1.0, 8] == setting
    assert chosen["validation_top1"] > 0.8
    assert chosen["by"] == "validation_part"
    t.data.test.labels = t.data.test.labels.flip(0)
    assert protocol.evaluate(t)["50%"]["finetuned"]["chosen"] == [chosen]


@pytest.mark.parametrize(
    ("preset", "by", "full", "ten", "lengths"),
    [
        ("default", "cross_validation", [0.003, 0.01, 0.03, 0.1, 0.3], [0.003, 0.01, 0.03, 0.1, 0.3], 1),
        ("simclr", "cross_validation", [0.8], [0.05 * 10 / 256], 1),
        ("byol", "validation_part", [0.04, 0.08, 0.2, 0.4, 0.02], None, 2),
    ],
)
def test_preset_has_the_rates_of_its_source(config, preset, by, full, ten, lengths):
    """Rates of a step on as many images as SimCLR's 1 % of ImageNet, and on ten."""
    cfg = config(f"eval/lowshot={preset}", "eval=lowshot", name="eval_linear").eval
    protocol = make(cfg.lowshot)
    assert protocol.chosen_by == by
    assert [protocol.finetune.rate(lr, 12811) for lr in protocol.lrs] == pytest.approx(full)
    if ten is not None:
        assert [protocol.finetune.rate(lr, 10) for lr in protocol.lrs] == pytest.approx(ten)
    assert all(len(n if isinstance(n, list) else [n]) == lengths for n in protocol.epochs)
    assert cfg.protocols == ["lowshot"]


def test_all_presets_are_compared_with_their_sources():
    assert options("eval/lowshot") == ["byol", "default", "simclr"]


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
        ({"seeds": [1, 1]}, r"seeds=\[1, 1\]: holds a value twice"),
    ],
)
def test_impossible_setting_is_refused(config, change, says):
    cfg = config("eval=lowshot", "ckpt=x", name="eval_linear")
    for key, value in {"fractions": [0.1], "fine_tune": False, "epochs": [1], **change}.items():
        OmegaConf.update(cfg, f"eval.lowshot.{key}", value, merge=False)

    def build():
        check_eval(cfg)
        make(cfg.eval.lowshot)

    with pytest.raises(UserError, match=says):
        build()
