import pytest
from omegaconf import OmegaConf

from siamese.evaluation.published import FILE, published_figures, published_name
from siamese.options import CONF


def test_published_figures_are_shown_for_their_stem(trained, evaluation):
    made = evaluation(trained)
    data, cfg = made.data["digits"]
    data.name = "cifar10"
    cfg.backbone.name = "resnet18"
    assert published_figures(data.name, cfg.backbone) == []
    cfg.backbone.update({"small_stem": True, "stem_padding": 2})
    figures = published_figures(data.name, cfg.backbone)
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
    figures = OmegaConf.load(FILE).figures
    assert {f.source for f in figures if f.data == "cifar10" and f.backbone == name} == sources


def test_published_figures_name_what_there_is():
    figures = OmegaConf.load(FILE).figures
    for figure in figures:
        assert (CONF / "data" / f"{figure.data}.yaml").is_file()
        assert (CONF / "backbone" / f"{figure.backbone}.yaml").is_file()
        assert (CONF / "method" / f"{figure.method}.yaml").is_file()
        assert 0 < figure.top1 < 100
        assert figure.source
