"""The protocols of eval_linear.py: `base.Protocol`, and one file each. A protocol is found by its yaml,
conf/eval/NAME/default.yaml."""

from siamese.evaluation.protocols.base import Protocol

__all__ = ["Protocol"]
