"""Nodes are checked against the signatures of what they name."""

import pytest

from siamese.errors import UserError
from siamese.schema import check_train
from siamese.schema.check import arguments, shown, wanted
from siamese.schema.types import Count, Probability


def test_arguments_include_those_of_base_constructors():
    """A method has its own arguments and those of `Method`, a data set also those of `DataSet`."""
    from siamese.data.sets import digits
    from siamese.methods.byol import BYOL

    assert {"hidden_dim", "momentum", "name", "backbone"} <= set(arguments(BYOL))
    assert arguments(BYOL)["momentum"] == Probability
    assert {"test_fraction", "val_fraction", "split_seed"} <= set(arguments(digits))
    assert "self" not in arguments(BYOL)


def test_types_and_values_in_words():
    assert wanted(Count) == "a whole number of at least 1"
    assert wanted(Probability | None) == "a number in [0, 1] or null"
    assert shown({"a": [True, None, 1.5, "x"]}) == "{a:[true,null,1.5,x]}"
    assert shown("x" * 1000).startswith("xxx") and shown("x" * 1000).endswith("x…")


def test_user_class_is_checked_by_its_annotations(config, tmp_path, monkeypatch):
    (tmp_path / "mine_typed.py").write_text(
        "from siamese.methods.simsiam import SimSiam\n"
        "class Mine(SimSiam):\n"
        "    def __init__(self, backbone, weight: float, **base):\n"
        "        super().__init__(backbone, **base)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    cfg = config("method._target_=mine_typed.Mine", "+method.weight=1.5")
    check_train(cfg)
    for wrong, says in (("x", "a number"), (None, "a number"), (True, "a number")):
        cfg.method.weight = wrong
        with pytest.raises(UserError, match=f"method.weight=.*; give {says}"):
            check_train(cfg)
