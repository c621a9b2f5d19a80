"""siamese: self-supervised pretraining of image backbones, and evaluation of the features."""

from siamese.options import register

__version__ = "0.1.0"
register()
