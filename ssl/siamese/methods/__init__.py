"""The methods: `base.Method`, and one file each."""

from siamese.methods.base import Batch, Method, MultiCrop

__all__ = ["Batch", "Method", "MultiCrop"]
