"""Which keys a config may hold and which values they may have: checked before anything is built or written.

`types` has the types of values, `check` holds a node against the signature of what it names, `groups` has the nodes
without a class of their own, `files` reads the config of a checkpoint that may be a stranger's.
"""

from siamese.schema.groups import check_eval, check_train

__all__ = ["check_eval", "check_train"]
