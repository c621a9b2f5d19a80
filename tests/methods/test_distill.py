"""Distillation: the loss, the teachers, and their images."""

import pytest
import timm
import torch
import torch.nn.functional as F
from method_cases import Net, make, views
from torch import nn
from view_cases import PLAIN

from siamese import factory
from siamese.augment import View, Views
from siamese.augment.views import Scaled
from siamese.errors import UserError
from siamese.losses import similarity_cross_entropy
from siamese.methods.teacher import Teacher, checkpoint_teacher, third_party_teacher, timm_teacher


def by_hand(s, t, queue, temperature, teacher_temperature):
    """Sums over single similarities, in float64."""
    total = 0.0
    for a, b in zip(s.double(), t.double(), strict=True):
        a, b = a / a.norm(), b / b.norm()
        candidates = [b, *queue.double()]
        p = torch.stack([(b @ c) / teacher_temperature for c in candidates]).exp()
        q = torch.stack([(a @ c) / temperature for c in candidates]).exp()
        total -= ((p / p.sum()) * (q / q.sum()).log()).sum()
    return total / len(s)


def test_loss_equals_the_sum_over_single_similarities():
    s, t, queue = torch.randn(5, 7), torch.randn(5, 7), F.normalize(torch.randn(11, 7), dim=1)
    ours = similarity_cross_entropy(s.double(), t.double(), queue.double(), 0.2, 0.1)
    torch.testing.assert_close(ours, by_hand(s, t, queue, 0.2, 0.1), rtol=1e-12, atol=0)


def test_loss_is_least_where_the_student_has_the_teachers_similarities():
    t, queue = torch.randn(6, 7), F.normalize(torch.randn(20, 7), dim=1)
    same = similarity_cross_entropy(3 * t, t, queue, 0.1, 0.1)
    other = similarity_cross_entropy(torch.randn(6, 7), t, queue, 0.1, 0.1)
    own = torch.cat([torch.ones(6, 1), F.normalize(t, dim=1) @ queue.T], 1) / 0.1
    entropy = -(own.softmax(1) * own.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(same, entropy)
    assert same < other


def test_loss_is_computed_in_float32_under_autocast():
    s, t, queue = torch.randn(8, 16), torch.randn(8, 16), F.normalize(torch.randn(64, 16), dim=1)
    expected = similarity_cross_entropy(s, t, queue, 0.2, 0.01)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(similarity_cross_entropy(s, t, queue, 0.2, 0.01), expected)


def test_teacher_stays_as_it_is(config):
    method = make(config, "distill", "method.queue_size=12")
    before = {k: v.clone() for k, v in method.teacher.state_dict().items()}
    assert not any(m.training for m in method.teacher.network.modules())
    assert method.backbone.training
    method.loss(views()).backward()
    assert all(p.grad is None for p in method.teacher.parameters())
    assert all(torch.equal(v, before[k]) for k, v in method.teacher.state_dict().items())  # running statistics, too


def test_queue_holds_the_teachers_features_of_the_first_views(config):
    method = make(config, "distill", "method.queue_size=12")
    first, second = views(6), views(6)
    for step, batch in enumerate((first, second)):
        method.loss(batch)
        method.after_step(step, 10)
    expected = torch.cat([F.normalize(method.teacher(batch[0]), dim=1) for batch in (first, second)])
    torch.testing.assert_close(method.queue, expected)
    method.loss(first)
    method.drop_step()
    method.loss(second)
    method.after_step(2, 10)
    torch.testing.assert_close(method.queue, torch.cat([expected[6:], expected[6:]]))


class Pixels(nn.Module):
    """Returns its input."""

    feature_dim = 4

    def forward(self, x):
        return x


def test_teacher_sees_images_in_its_own_normalisation():
    """From a run with other mean, std and range of values, of two channels."""
    images = torch.randint(0, 4000, (3, 2, 8, 8)).to(torch.float32)
    theirs = Scaled([0.2, 0.5], [0.3, 0.1], [[0.0, 4095.0], [100.0, 4000.0]])
    own_range = [[0.0, 2000.0], [-50.0, 5000.0]]
    teacher = Teacher(Pixels(), [0.4, 0.1], [0.25, 0.5], own_range, "x")
    teacher.sees(theirs)
    low, high = (torch.tensor(v).view(2, 1, 1) for v in zip(*theirs.value_range, strict=True))
    inside = images.clamp(low, high)  # what the run's views keep
    x = ((inside - low) / (high - low) - theirs.mean.view(2, 1, 1)) / theirs.std.view(2, 1, 1)
    own_low, own_high = (torch.tensor(v).view(2, 1, 1) for v in zip(*own_range, strict=True))
    mean, std = torch.tensor([0.4, 0.1]).view(2, 1, 1), torch.tensor([0.25, 0.5]).view(2, 1, 1)
    expected = ((inside - own_low) / (own_high - own_low) - mean) / std
    torch.testing.assert_close(teacher(x), expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(UserError, match="takes 2 channels, the images have 3"):
        teacher.sees(Scaled([0.5] * 3, [0.5] * 3, [0.0, 255.0]))


def test_teacher_from_a_checkpoint_gives_its_features(session, tmp_path):
    session(folder="teacher").fit()
    file = tmp_path / "teacher" / "checkpoints" / "last.ckpt"
    run = session("method=distill", f"method.teacher.file={file}", "method.queue_size=64", folder="student")
    state = torch.load(file, weights_only=True)["state_dict"]
    held = run.method.teacher.network.state_dict()
    assert held
    assert all(torch.equal(v, state[f"backbone.{k}"]) for k, v in held.items())
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(run.method.teacher(x), run.method.teacher.network(x), atol=1e-5, rtol=1e-5)  # same views
    run.fit()
    saved = torch.load(tmp_path / "student" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(v, saved[f"teacher.network.{k}"]) for k, v in held.items())


def test_teacher_from_a_third_partys_file(tmp_path):
    network = Net()
    torch.save({"state_dict": {f"backbone.{k}": v for k, v in network.state_dict().items()}}, tmp_path / "x.ckpt")
    teacher = third_party_teacher(str(tmp_path / "x.ckpt"), Net(), [0.5] * 3, [0.5] * 3)
    assert torch.equal(teacher.network.conv.weight, network.conv.weight)
    with pytest.raises(UserError, match="method.teacher.file=null"):
        third_party_teacher(None, Net(), [0.5] * 3, [0.5] * 3)


def test_teacher_from_timm_has_its_normalisation():
    teacher = timm_teacher("resnet10t", 32, False, {})
    torch.testing.assert_close(teacher.scale.mean, torch.tensor([0.485, 0.456, 0.406]))
    teacher.sees(View(**{**PLAIN, "mean": [0.1] * 3, "std": [0.2] * 3}))
    assert teacher(torch.randn(2, 3, 32, 32)).shape == (2, teacher.feature_dim)
    assert timm_teacher("resnet10t", 32, False, {}, channels=5).scale.mean.shape == (5,)


@pytest.mark.parametrize("value_range", [[0.0, 255.0], [0.0, 65535.0], [0.0, 1.0]])
def test_teacher_from_timm_sees_black_and_white_as_the_run_does(value_range):
    teacher = timm_teacher("resnet10t", 32, False, {}, value_range=value_range)
    teacher.network, run = Pixels(), Scaled([0.3] * 3, [0.2] * 3, value_range)
    teacher.sees(run)
    black, white = ((torch.full((1, 3, 1, 1), level) - 0.3) / 0.2 for level in (0.0, 1.0))
    for x, level in ((black, 0.0), (white, 1.0)):
        expected = (level - teacher.scale.mean) / teacher.scale.std
        torch.testing.assert_close(teacher(x).flatten(), expected, atol=1e-4, rtol=1e-4)


def test_views_that_the_teacher_cannot_take_are_refused(config):
    method = make(config, "distill")
    method.teacher = timm_teacher("vit_tiny_patch16_224", 32, False, {})
    method.check_views([32])
    with pytest.raises(UserError, match="method.teacher.name=vit_tiny_patch16_224: cannot take views of 8 pixels"):
        method.check_views([8])


def test_checkpoint_teacher_downloads_nothing(session, tmp_path, monkeypatch):
    """Its file has the weights, whatever its backbone started from."""
    session("backbone=timm", "backbone.name=resnet10t", folder="teacher").fit()
    file = tmp_path / "teacher" / "checkpoints" / "last.ckpt"
    state = torch.load(file, weights_only=True)
    state["siamese"]["config"]["backbone"]["pretrained"] = True
    torch.save(state, file)
    created = timm.create_model
    asked = []
    monkeypatch.setattr(
        timm, "create_model", lambda *a, **k: (asked.append(k.get("pretrained", False)), created(*a, **k))[1]
    )
    checkpoint_teacher(str(file))
    assert asked == [False]


def test_views_of_a_run_reach_the_teacher(config):
    made = Views(0, [{}], **PLAIN)
    method = make(config, "distill", "method.queue_size=12", views=made)
    assert method.teacher.converts


def test_resumed_run_takes_its_teacher_from_another_place(session, tmp_path):
    session(folder="teacher").fit()
    file = tmp_path / "teacher" / "checkpoints" / "last.ckpt"
    given = ("method=distill", "method.queue_size=64")
    session(*given, f"method.teacher.file={file}", folder="student").fit()
    file.rename(tmp_path / "moved.ckpt")
    run = session(*given, f"method.teacher.file={tmp_path / 'moved.ckpt'}", "resume=true", "epochs=2", folder="student")
    run.fit()
    assert run.trainer.global_step == 2 * 22


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("method.teacher.name=resnt50", "method.teacher.name=resnt50: timm has no such model"),
        ("+method.teacher.options.in_chans=x", "method.teacher.name=resnet50: cannot be built"),
    ],
)
def test_mistakes_of_a_timm_teacher_name_its_keys(config, arguments, told):
    given = ["method=distill", "method/teacher=timm", "method.teacher.pretrained=false", arguments]
    with pytest.raises(UserError, match=f"^{told}"):
        factory.method(config(*given), factory.backbone(config()), None)


def test_weights_that_cannot_be_fetched_are_no_matter_of_size(config, monkeypatch):
    import timm

    made = timm.create_model

    def offline(name, pretrained=False, **options):
        if pretrained:
            raise OSError("no route to the hub\nsecond line")
        return made(name, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    given = ["method=distill", "method/teacher=timm", "method.teacher.name=resnet10t", "data.crop=32"]
    told = r"method.teacher.name=resnet10t: its published weights cannot be loaded \(no route to the hub\)"
    with pytest.raises(UserError, match=told):
        factory.method(config(*given), factory.backbone(config()), None)


def test_teacher_of_a_run_that_measured_nothing_is_refused(session, tmp_path):
    run = session(folder="teacher")
    run.fit()
    state = torch.load(run.state.checkpoint, weights_only=True)
    state["siamese"]["config"]["augment"]["mean"] = "auto"
    torch.save(state, tmp_path / "odd.ckpt")
    with pytest.raises(UserError, match="odd.ckpt: does not say how its images were normalised"):
        checkpoint_teacher(str(tmp_path / "odd.ckpt"))
