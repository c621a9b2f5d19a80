"""Batched image operations on the device (`ops`) and the views built of them (`views`)."""

from siamese.augment.views import CleanView, View, Views

__all__ = ["CleanView", "View", "Views"]
