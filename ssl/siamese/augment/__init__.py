"""Views of a batch: random operations (`operations`, `params`), in torch (`ops`) and in C++ (`native`), and their lists
(`views`)."""

from siamese.augment.views import CleanView, View, Views, described

__all__ = ["CleanView", "View", "Views", "described"]
