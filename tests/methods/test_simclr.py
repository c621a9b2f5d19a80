"""SimCLR: each loss of conf/method/loss."""

import copy

import pytest
import torch
from method_cases import make, views
from paths import ROOT

from siamese import losses

LOSSES = sorted(file.stem for file in (ROOT / "conf" / "method" / "loss").glob("*.yaml"))


@pytest.mark.parametrize("name", LOSSES)
def test_loss_option_is_applied_to_projections(config, name):
    method = make(config, "simclr", f"method/loss={name}", "method.temperature=0.3")
    x = views()
    reference = copy.deepcopy(method)
    z = reference.projector(reference.backbone(torch.cat(x)))
    node = config("method=simclr", f"method/loss={name}").method.loss
    arguments = {key: 0.3 if key == "temperature" else value for key, value in node.items() if not key.startswith("_")}
    expected = getattr(losses, name)(z, **arguments)
    torch.testing.assert_close(method.loss(x), expected)
