"""Data sets (`sets`), their splits (`dataset`), image stores (`images`, `packed`) and batches (`loading`)."""

from siamese.data.dataset import DataSet, Split, some_of
from siamese.data.images import ImageFiles, ImageStore, TensorImages
from siamese.data.loading import Loader, LoaderConfig

__all__ = ["DataSet", "ImageFiles", "ImageStore", "Loader", "LoaderConfig", "Split", "TensorImages", "some_of"]
