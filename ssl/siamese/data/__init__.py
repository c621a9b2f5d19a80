"""Data sets (`sets`), what is held out of them (`split`) and how batches reach the device (`loading`)."""

from siamese.data.loading import Loader, choose_residence
from siamese.data.sets import DataSet, Part

__all__ = ["DataSet", "Loader", "Part", "choose_residence"]
