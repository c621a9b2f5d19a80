"""Data sets (`sets`), what is held out of them (`dataset`) and how batches reach the device (`loading`)."""

from siamese.data.dataset import DataSet, Part, some_of
from siamese.data.loading import Loader, choose_residence

__all__ = ["DataSet", "Loader", "Part", "choose_residence", "some_of"]
