"""The keys and values that a config may have. They are checked before anything is built or written.

`types` has the types of values. `check` compares a node with the signature of the class that it names. `groups` has the
nodes without a class. `saved` reads the config of a checkpoint, which may come from a stranger. `messages` explains
errors of Hydra.
"""

from siamese.schema.groups import check_embed, check_eval, check_export, check_train

__all__ = ["check_embed", "check_eval", "check_export", "check_train"]
