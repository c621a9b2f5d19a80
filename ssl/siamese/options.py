"""The options of conf/, and what Hydra must know before it composes them."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

PACKED = Path(__file__).resolve().parent / "conf"  # in an installed package
CONF = PACKED if PACKED.is_dir() else Path(__file__).resolve().parents[2] / "conf"
NESTED = ("loss", "regularizer", "teacher")  # groups within an option of another group
T = TypeVar("T")


def by_epochs(epochs: int, table: Mapping[int, T]) -> T:
    """The entry of the longest training in `table` that is no longer than `epochs`; in conf/ as
    ``${by_epochs:${epochs},{0:a,100:b}}``."""
    return table[max(e for e in table if e <= epochs)]


def own_conf() -> Path | None:
    """`conf/` of the current directory, whose options stand beside ours, if it has a group of ours. It is None in a
    checkout, where it is ours."""
    own = Path.cwd() / "conf"
    if not (own.is_dir() and CONF.is_dir()):
        return None
    groups = {folder.name for folder in CONF.iterdir() if folder.is_dir()}
    has_group = any(folder.name in groups for folder in own.iterdir())
    return own if has_group and not own.samefile(CONF) else None


def roots() -> list[Path]:
    """The folders that hold options: ours, and the user's."""
    own = own_conf()
    return [CONF] if own is None else [CONF, own]


def is_group(name: str) -> bool:
    """Whether `name=` chooses an option."""
    return any((root / name).is_dir() for root in roots())


def protocols() -> list[str]:
    """Protocols of eval_linear.py: a protocol is a folder in conf/eval with an option `default`."""
    return sorted({file.parent.name for root in roots() for file in (root / "eval").glob("*/default.yaml")})


def options(group: str) -> list[str]:
    """What `group=` may be."""
    found = [f.relative_to(root / group).with_suffix("") for root in roots() for f in (root / group).rglob("*.yaml")]
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
