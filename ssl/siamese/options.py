"""The options of conf/, and what Hydra must know before it composes them."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

CONF = Path(__file__).resolve().parents[2] / "conf"
NESTED = ("loss", "regularizer", "teacher")  # groups within an option of another group
T = TypeVar("T")


def by_epochs(epochs: int, table: Mapping[int, T]) -> T:
    """The entry of the longest training in `table` that is no longer than `epochs`; in conf/ as
    ``${by_epochs:${epochs},{0:a,100:b}}``."""
    return table[max(e for e in table if e <= epochs)]


def protocols() -> list[str]:
    """Protocols of eval_linear.py: a protocol is a folder in conf/eval with an option `default`."""
    return sorted(file.parent.name for file in (CONF / "eval").glob("*/default.yaml"))


def options(group: str) -> list[str]:
    """What `group=` may be."""
    found = [f.relative_to(CONF / group).with_suffix("") for f in (CONF / group).rglob("*.yaml")]
    nested = (*NESTED, *protocols()) if group == "eval" else NESTED
    names = {str(f) for f in found if not f.name.startswith("_") and f.parts[0] not in nested}
    return sorted(names | {"all", *protocols()} if group == "eval" else names)


def register() -> None:
    """Register the resolver `by_epochs` and the options `eval=all` and `eval=NAME` of each protocol."""
    OmegaConf.register_new_resolver("by_epochs", by_epochs, replace=True)
    store, names = ConfigStore.instance(), protocols()
    defaults = ["_common", *({name: "default"} for name in names), "_self_"]
    store.store(group="eval", name="_protocols", node={"defaults": defaults})
    for option, chosen in {"all": names, **{name: [name] for name in names}}.items():
        store.store(group="eval", name=option, node={"defaults": ["_protocols", "_self_"], "protocols": chosen})
