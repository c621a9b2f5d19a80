"""siamese: self-supervised pretraining of image backbones, and what the features are worth."""

__version__ = "0.1.0"
