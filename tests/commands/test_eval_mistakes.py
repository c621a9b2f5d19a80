"""A user's mistake at eval_linear.py: one line, and nothing written."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from siamese.config import to_dict
from siamese.errors import UserError
from siamese.evaluation.build import build, check


def evaluate(config, *arguments):
    return build(check(config(*arguments, name="eval_linear"), []))


class Harmful:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return (os.mkdir, ("harm",))


def test_foreign_or_damaged_checkpoint_is_refused(config, here):
    good = {"state_dict": {"backbone.x": torch.zeros(1)}}
    torch.save(good, "other.ckpt")
    torch.save({"harm": Harmful()}, "harmful.ckpt")
    Path("text.ckpt").write_text("hello")
    Path("empty.ckpt").write_text("")
    buffer = io.BytesIO()
    torch.save(good, buffer)
    Path("cut.ckpt").write_bytes(buffer.getvalue()[:200])
    before = sorted(here.rglob("*"))
    for name, says in (
        ("missing", "is not a file"), ("other", "was not written by train.py"), ("harmful", "could run code"),
        ("text", "ckpt=text.ckpt"), ("empty", "ckpt=empty.ckpt"), ("cut", "ckpt=cut.ckpt"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=says):
            evaluate(config, f"ckpt={name}.ckpt")
    with pytest.raises(UserError, match="ckpt="):
        evaluate(config)
    assert sorted(here.rglob("*")) == before  # above all: no folder "harm"


def test_data_set_without_labels_is_refused(config, here):
    np.savez("x.npz", train_images=np.zeros((8, 8, 8), np.uint8))
    cfg = config("data=npz", "data.path=x.npz", "backbone=small", "data.crop=8")
    torch.save({"state_dict": {}, "siamese": {"config": to_dict(cfg), "num_classes": 0}}, "a.ckpt")
    with pytest.raises(UserError, match="no labels or no test split"):
        evaluate(config, "ckpt=a.ckpt")
