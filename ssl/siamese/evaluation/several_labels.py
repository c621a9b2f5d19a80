"""Which protocols judge images with several labels."""

from collections.abc import Mapping

from omegaconf import DictConfig

from siamese.config import make
from siamese.data import DataSet
from siamese.errors import UserError
from siamese.evaluation.protocols import Protocol


def check_protocols(cfg: DictConfig, protocols: Mapping[str, Protocol], data: DataSet) -> None:
    """Refuse protocols that take one label an image on a data set with several. `eval=all` leaves them out there.

    Args:
        cfg: conf/eval_linear.yaml.
        protocols: that run.
    """
    unable = takes_one_label(protocols, data)
    known = {n: node for n, node in cfg.eval.items() if isinstance(node, DictConfig) and "_target_" in node}
    if not unable or set(protocols) == set(known):
        return
    able = ",".join(sorted(str(n) for n, node in known.items() if make(node).multilabel and make(node).needs_labels))
    raise UserError(
        f"eval.protocols=[{','.join(protocols)}]",
        f"data={data.name} has several labels an image, which {', '.join(unable)} cannot judge",
        f"give eval.protocols=[{able}], eval=unlabelled or eval=all",
    )


def takes_one_label(protocols: Mapping[str, Protocol], data: DataSet) -> list[str]:
    """The protocols that cannot judge the data set, because its images may have several labels."""
    return [name for name, protocol in protocols.items() if data.multilabel and not protocol.multilabel]
