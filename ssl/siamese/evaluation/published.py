"""Published figures beside our own (published.yaml)."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

FILE = Path(__file__).with_name("published.yaml")


def published_figures(data: str, backbone: Any) -> list[dict[str, Any]]:
    """Figures of papers and other projects for a data set and the network of a run's `backbone` node."""
    content: Any = OmegaConf.to_container(OmegaConf.load(FILE))
    name = published_name(backbone)
    return [f for f in content["figures"] if (f["data"], f["backbone"]) == (data, name)]


def published_name(backbone: Any) -> str:
    """The option of conf/backbone that builds the network of a run's `backbone` node; published.yaml uses these names.

    Another stem is another network. A network without an option gets a name that published.yaml does not hold.
    """
    name = str(backbone.name)
    if str(backbone.get("_target_")).endswith(".lightly_resnet"):
        return "lightly" if name == "resnet-18" else f"lightly {name}"
    if not backbone.get("small_stem"):
        return name
    padding = backbone.get("stem_padding")
    return name + {None: "_small", 1: "_small", 2: "_solo_learn"}.get(padding, f" padded by {padding}")
